"""A store whose clock was watched for two days, and one that is filled."""

from __future__ import annotations

import time

import msgspec

from smtp_sts.store import Store, Stored, clock_watch
from smtp_sts.store.database import open_database
from smtp_sts.store.past import LOOK_SECONDS, Watch, seen
from smtp_sts.store.room import size_of

DAY = 86400.0


def watched(url: str, wall: float | None = None, days: float = 2.0) -> None:
    """Write down that the clock, which shows `wall`, was looked at for so many days."""
    wall = time.time() if wall is None else wall
    uptime = clock_watch.Clock().uptime()
    watch: Watch | None = None
    for n in range(int(days * DAY / LOOK_SECONDS), -1, -1):
        ago = n * LOOK_SECONDS
        watch = seen(watch, clock_watch.boot_id(), uptime - ago, wall - ago)
    database = open_database(url, clock_watch.metadata)
    with database.begin() as connection:
        assert watch is not None
        clock_watch.keep(connection, watch, wall - uptime)
    database.close()


def policy(domain: str, now: float, *, size: int = 300, used_at: float | None = None) -> Stored:
    used = now if used_at is None else used_at
    return Stored(domain, "1", "x" * size, now, now + 30 * DAY, now + DAY, used)


def fill(store: Store) -> None:
    """A stranger fills it: nothing that is kept goes, and what is kept is renewed."""
    now = time.time()
    honest = [policy(f"honest{n}.example", now) for n in range(20)]
    store.put(honest)
    store.limit = 200_000
    refused: list[str] = []
    for n in range(400):
        refused += store.put([policy(f"s{n}.stranger.example", now, size=2000)])
    assert 300 < len(refused) < 400
    assert store.size() <= store.limit
    assert store.put([policy("new.example", now, size=1500)]) == ["new.example"]
    names = [stored.domain for stored in honest]
    assert store.get(names) == {stored.domain: stored for stored in honest}
    # A later fetch of what is kept is taken, though it is longer.
    renewed = [
        msgspec.structs.replace(stored, fetched_at=now + 1, body="y" * 1000) for stored in honest
    ]
    assert store.put(renewed) == []
    assert store.get(names) == {stored.domain: stored for stored in renewed}
    # But no stranger takes more than a quarter beyond the limit by it.
    longer = [policy(f"s{n}.stranger.example", now + 1, size=60_000) for n in range(20)]
    refused = [name for one in longer for name in store.put([one])]
    assert refused
    assert store.size() <= store.limit * 1.25 + 1
    size = sum(size_of(stored) for stored in store.page("", 1000))
    assert store.size() == size
    store.limit = 0
    assert store.put([policy("new.example", now)]) == []
