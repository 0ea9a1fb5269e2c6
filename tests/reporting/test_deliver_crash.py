"""A process that delivers is killed at random moments, again and again: nothing is lost, and what
was recorded as delivered is not sent again. Receivers and the DNS are in this process, and real.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from smtp_sts.store.outbox import LEASE_SECONDS, open_outbox
from smtp_sts.tlsrpt import open_report

from .post_office import PostOffice

#: Delivers with a clock that begins where it is told to.
CHILD = """
import asyncio, sys, time
from smtp_sts.config import load
from smtp_sts.reporting.deliver import Clock, keep_delivering
ahead = float(sys.argv[2]) - time.time()
asyncio.run(keep_delivering(load(sys.argv[1]), clock=Clock(lambda: time.time() + ahead), poll=0.1))
"""
DOMAINS = 20


async def _run_and_kill(
    config: Path, now: float, seconds: float, settled: Callable[[], bool]
) -> None:
    """Let it run for so long, or until all is settled."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", CHILD, str(config), str(now), stderr=asyncio.subprocess.DEVNULL
    )
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0 and not settled():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(min(left, 0.5))
    assert process.returncode is None
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()


@pytest.mark.parametrize("seed", [1])
def test_kill_9_at_random_points_loses_nothing_and_sends_nothing_after_it_was_recorded(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)

    async def scene() -> None:
        async with PostOffice(tmp_path) as office:
            domains = [f"d{n}.example" for n in range(DOMAINS)]
            office.count(*domains)
            for domain in domains:
                office.ask(domain, f"mailto:r@{domain},{office.https.url}/{domain}")
            config = office.config_file()
            #: what was recorded as delivered before a start, and so must not come after it
            recorded: set[tuple[str, str]] = set()
            mails: Counter[str] = Counter()
            posts: Counter[str] = Counter()
            now, kills = office.clock.now, 0
            while not office.settled():
                assert kills < 60
                if kills:
                    outbox = open_outbox(office.url)
                    recorded = {
                        (d.domain, d.uri[:5]) for d in outbox.deliveries(0)
                        if d.state == "delivered"
                    }  # fmt: skip
                    outbox.close()
                seen = len(office.mta.mails), len(office.https.posts)
                # Python is up after about half a second, all is sent within two more; a machine
                # that is busy gets more time by and by.
                seconds = chance.uniform(0.5, 1.6) * (1 + kills / 4)
                await _run_and_kill(config, now, seconds, office.settled)
                kills += 1
                now += LEASE_SECONDS + 1  # what was under way then is claimed no more
                for mail in office.mta.mails[seen[0] :]:
                    domain = mail.rcpt_tos[0].partition("@")[2]
                    assert (domain, "mailt") not in recorded
                    mails[domain] += 1
                for post in office.https.posts[seen[1] :]:
                    domain = post.target.rpartition("/")[2]
                    assert (domain, "https") not in recorded
                    posts[domain] += 1
            assert kills > 1  # the last one found all done
            assert set(mails) == set(posts) == set(domains)
            # Twice at most where the kill came between the answer and the record, and then the same
            # report-id and Message-ID, by which receivers tell.
            identities = {
                (open_report(c).message_id, open_report(c).read.report.report_id)
                for c in office.mta.contents()
            }
            assert len(identities) == DOMAINS
            assert len({post.body for post in office.https.posts}) == DOMAINS
            twice = sum(mails.values()) + sum(posts.values()) - 2 * DOMAINS
            assert twice <= kills * 5  # what can be under way at once
            assert {d.state for d in office.deliveries()} == {"delivered"}

    asyncio.run(scene())
