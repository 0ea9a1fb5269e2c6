"""What a store of policies can do: the face of `sqlite.py` and `postgresql.py`.

Promises, of every store: a policy that `put` returned from survives `kill -9`; trouble of any kind
comes out as `StoreError` with a sentence that says what to do, from every method; a later fetch is
never replaced by an earlier one (`replacing.py`), and what is expired is deleted only when that is
certain (`past.py`). Times that come and go are seconds since the epoch by this machine's clock.
Must not: decide anything about a policy, be called on an event loop (it blocks), or be used by two
threads at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

#: A fetch that lies further in the future was written with a wrong clock (seconds).
FUTURE_SECONDS: Final = 60.0
#: Policies that are expired are kept for so long: a clock that was ahead for a day is found out by
#: then, mostly (seconds).
EXPIRED_SECONDS: Final = 30 * 86400.0
#: Policies that one call of `prune` and `make_room` look at: who asks meanwhile does not wait long.
PRUNED_AT_ONCE: Final = 1000
#: Policies that are read at once where all are.
PAGE: Final = 1000


class Stored(msgspec.Struct, frozen=True):
    """A policy as it lasts. `body` is the rendered policy; times are seconds since the epoch."""

    domain: str
    policy_id: str
    body: str
    fetched_at: float
    expires_at: float
    refresh_at: float
    used_at: float


class Figures(NamedTuple):
    """How many policies are kept; of those in force and in use, the earliest refresh and fetch
    (None where there is none); and what all take (bytes, about)."""

    policies: int
    refresh_at: float | None
    fetched_at: float | None
    bytes: int


class Store(Protocol):
    """The policies that last."""

    #: what another process writes is not seen: to be opened anew now and then
    read_only: bool
    #: what the policies may take, bytes; 0 is without a limit
    limit: int

    @property
    def place(self) -> str:
        """Where the policies are, for people, without secrets."""

    def moved(self) -> bool:
        """Whether what is written is lost, for another store, or none, is in its place by now."""

    def get(self, domains: Iterable[str]) -> dict[str, Stored]:
        """The stored policies of these domains, expired ones among them."""

    def put(self, policies: Sequence[Stored]) -> list[str]:
        """Keep these policies, each in place of what its domain had.

        Returns the domains that there is no room for (`room.py`).
        """

    def touch(self, used: dict[str, float]) -> None:
        """Note when domains were last asked for."""

    def postpone(self, domain: str, refresh_at: float, before: float) -> None:
        """The next refresh of a domain, after one that failed.

        A policy that was fetched later than `before` is another one, and stays as it is.
        """

    def due(self, now: float, limit: int, unused_since: float = 0.0) -> list[str]:
        """Unexpired domains whose refresh is due, the longest waiting first, but none that nobody
        has asked for since a time.

        What one daemon is given, no other that shares the store is, for a minute.
        """

    def page(self, after: str, limit: int) -> list[Stored]:
        """The next policies behind a domain, in the order of their names; "" begins."""

    def delete(self, domains: dict[str, float]) -> None:
        """Forget the policies of domains that were fetched at a time or before.

        What was fetched later is another policy, and stays, unless by a wrong clock. Here only:
        other daemons go on with what they have in memory.
        """

    def look_at_clock(self) -> float:
        """Look at the clock that the times are by, every few minutes; the latest time of day by it
        that is certainly past."""

    def prune(self, past: float) -> int:
        """Delete policies that were expired for `EXPIRED_SECONDS` at a time that is certainly past,
        `PRUNED_AT_ONCE` at most; how many."""

    def make_room(self, past: float, unused_seconds: float, after: str) -> tuple[int, str]:
        """Look through the policies behind a domain ("" begins), and delete those that are expired,
        or that nobody has asked for in so many seconds, at a time that is certainly past.

        `PRUNED_AT_ONCE` are looked at: how many are gone, and behind which to go on ("" at the
        end).
        """

    def size(self) -> int:
        """What the policies take (bytes, about)."""

    def count(self) -> int:
        """How many policies are kept."""

    def figures(self, now: float, unused_since: float = 0.0) -> Figures:
        """See `Figures`; in use is what somebody has asked for since a time."""

    def claim(self, domains: Sequence[str], holder: str) -> dict[str, Stored | None]:
        """Those of these domains that `holder` may fetch now, with what is kept of each.

        No other daemon that shares the store may until `release`, for some seconds at most.
        """

    def release(self, domains: Sequence[str], holder: str) -> None:
        """Give claims back."""

    def changes(self, seconds: float) -> dict[str, float]:
        """What others may have written in the last so many seconds: domain -> a mark that changes
        with each write. Nothing, where nobody else writes."""

    def close(self) -> None:
        """Give the file or the connection back."""


def pages(read: Callable[[str, int], list[Stored]], size: int = PAGE) -> Iterator[list[Stored]]:
    """All policies, piece by piece, by something like `Store.page`: nothing is held open between.

    Raises what `read` raises.
    """
    after = ""
    while page := read(after, size):
        yield page
        after = page[-1].domain
