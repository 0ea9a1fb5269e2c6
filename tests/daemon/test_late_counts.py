"""Law 7: what is counted when the report of its day is made already is kept, and said."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from pathlib import Path

import pytest

from smtp_sts.daemon.reporter import Writer
from smtp_sts.store.outbox import Part, Planned, open_outbox
from smtp_sts.store.tallies import Tally, open_tallies
from smtp_sts.tlsrpt import AppliedPolicy, PolicyResult

TODAY = int(time.time() // 86400)
RECORD = "v=TLSRPTv1; rua=mailto:tls@bob.example"


def test_law_7_counts_after_the_report_are_kept_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    policy = AppliedPolicy("no-policy-found", "bob.example")

    def tally(day: int, domain: str, good: int) -> Tally:
        return Tally(day, domain, RECORD, PolicyResult(policy, good, 0))

    outbox = open_outbox(url)
    outbox.plan(TODAY - 1, {"bob.example": 0.0, "carol.example": 1.0})
    (pending,) = outbox.claim_reports(0.5, "maker", 1)
    report, to = Part("1@alice.example", b"packed"), Planned("mailto:tls@bob.example", "")
    assert outbox.make(pending, "maker", [report], [to], now=1.0, give_up_at=2.0)
    outbox.close()

    async def play() -> Counter[str]:
        counts: Counter[str] = Counter()
        writer = Writer(url, counts)
        try:
            await writer.add([tally(TODAY, "bob.example", 1)], {})  # its report is to come
            await writer.add([tally(TODAY - 1, "carol.example", 2)], {})  # not made yet
            assert not counts
            await writer.add(
                [tally(TODAY - 1, "bob.example", 4), tally(TODAY - 2, "bob.example", 8)], {}
            )
        finally:
            writer.close()
        return counts

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(play()) == {"tls-after-report": 4}
    assert "4 sessions were counted after" in caplog.text
    tallies = open_tallies(url)
    assert [r.successful for r in tallies.results(TODAY - 1, "bob.example")] == [4]
    tallies.close()
