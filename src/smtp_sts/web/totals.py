"""What a whole daemon has counted, as the metrics page takes it. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from smtp_sts.mta.tally import Tally


class StoreFigures(NamedTuple):
    """What the store holds; when the earliest refresh is due, and when the oldest policy in force
    was fetched (seconds since the epoch)."""

    policies: int
    refresh_at: float | None
    fetched_at: float | None


class Totals(NamedTuple):
    """Workers that take connections, that finish with their clients, and that there should be.

    `store` is None where the store cannot be asked now.
    """

    tally: Tally
    serving: int
    retired: int
    configured: int
    store: StoreFigures | None
