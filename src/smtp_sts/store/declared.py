"""The policies' texts as their domains served them, for reports. Reads the policies' own table.

RFC 8460 section 4.5: what a report says of a policy is "the policy that is declared". Promises: one
look for many domains; a store without policies gives none. Must not: write, or be called on an
event loop (it blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import column, inspect, select, table

from smtp_sts.store.database import Database

_policies: Final = table("policies", column("domain"), column("body"))
#: Domains of one statement.
_AT_ONCE: Final = 500


def texts_of(database: Database, domains: Sequence[str]) -> dict[str, str]:
    """What is kept of these domains' policies. Raises StoreError."""
    found: dict[str, str] = {}
    with database.read() as connection:
        if not domains or not inspect(connection).has_table("policies"):
            return found
        for start in range(0, len(domains), _AT_ONCE):
            some = domains[start : start + _AT_ONCE]
            query = select(_policies).where(_policies.c.domain.in_(some))
            found.update((row.domain, row.body) for row in connection.execute(query))
    return found
