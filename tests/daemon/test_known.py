"""What the reporter remembers of domains: bounded, and asked for once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from smtp_sts.daemon import reporter
from smtp_sts.daemon.peers import Owners
from smtp_sts.daemon.reporter import REMEMBERED_BYTES, Known, Remembered
from smtp_sts.lab.names import Names
from smtp_sts.net.dns import ROUNDS, Dns


def test_law_7_what_strangers_publish_is_remembered_within_a_bound() -> None:
    kept: Remembered[str] = Remembered()
    for number in range(3000):
        kept.put(f"d{number}.example", 3600.0, "record", 64 * 1024)
    known = [number for number in range(3000) if kept.get(f"d{number}.example")]
    assert known == list(range(3000 - REMEMBERED_BYTES // (64 * 1024), 3000))
    for number in range(3000):  # what takes the place of another gives its room back
        kept.put("bob.example", 3600.0, f"record {number}", 64 * 1024)
    assert kept.get("d2999.example") == ("record",)
    assert kept.get("bob.example") == ("record 2999",)
    kept.put("bob.example", -1.0, "over", 0)
    assert kept.get("bob.example") is None


def test_silent_name_servers_hold_up_a_log_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "LOOKUPS", 10)

    async def scene() -> None:
        names = Names()
        await names.start()
        names.spoil("_smtp._tls.bob.example", "timeout", "TXT")
        names.put("_smtp._tls.eve.example", "TXT", '"v=TLSRPTv1; rua=mailto:r@eve.example"')
        try:
            known = Known(Owners([]), Dns([names.address], timeout=0.5), Counter())
            # As many lines of a log, far more than may be asked for at once.
            found = await asyncio.gather(*(known.record("bob.example") for _ in range(300)))
            assert set(found) == {""}
            asked = names.queries["_smtp._tls.bob.example", "TXT"]
            assert asked <= 10 * ROUNDS
            assert await known.record("bob.example") == ""
            assert names.queries["_smtp._tls.bob.example", "TXT"] == asked
            assert await known.record("eve.example") == "v=TLSRPTv1; rua=mailto:r@eve.example"
            assert await known.record("nobody.example") is None
        finally:
            await names.close()

    asyncio.run(scene())
