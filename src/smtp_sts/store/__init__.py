"""What must last: policies with their id, fetch time and expiry; counts and reports beside them.

`interface.py` says what a store of policies can do; SQLite (`sqlite.py`, one machine) and
PostgreSQL (`postgresql.py`, a fleet) stand behind it. `tallies.py` and `outbox.py` keep TLS
reports in the same place. `past.py` says what may be deleted because it is old.
"""

from smtp_sts.store.errors import StoreError
from smtp_sts.store.interface import EXPIRED_SECONDS, FUTURE_SECONDS, Figures, Store, Stored, pages
from smtp_sts.store.opening import (
    check,
    is_shared,
    missing,
    open_beside,
    open_store,
    open_to_read,
    repair,
)

__all__ = [
    "EXPIRED_SECONDS",
    "FUTURE_SECONDS",
    "Figures",
    "Store",
    "StoreError",
    "Stored",
    "check",
    "is_shared",
    "missing",
    "open_beside",
    "open_store",
    "open_to_read",
    "pages",
    "repair",
]
