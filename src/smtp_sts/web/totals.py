"""What a whole daemon has counted, as the metrics page takes it. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from smtp_sts.mta.tally import Tally


class StoreFigures(NamedTuple):
    """What the store holds; of the policies in force and in use, when the earliest refresh is due,
    and when the oldest was fetched (seconds since the epoch); what all take, and may take at most
    (bytes)."""

    policies: int
    refresh_at: float | None
    fetched_at: float | None
    bytes: int
    limit: int


class Totals(NamedTuple):
    """Workers that take connections, that finish with their clients, and that there should be.

    `store` is None where the store cannot be asked now.
    """

    tally: Tally
    serving: int
    retired: int
    configured: int
    store: StoreFigures | None
