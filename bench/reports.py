"""How fast TLS results are counted: logs imported, sessions aggregated. (Datagrams: datagrams.py)

    .venv/bin/python bench/reports.py [logs|sessions]

Each figure is of one process that shares the machine with whatever else runs on it. Nothing is
written but a temporary folder.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from smtp_sts.reporting.aggregate import Aggregate
from smtp_sts.reporting.exim_log import EximLog
from smtp_sts.reporting.lines import Clock, Lines
from smtp_sts.reporting.postfix_log import PostfixLog
from smtp_sts.store.tallies import open_tallies

LINES = 1_000_000
SESSIONS = 1_000_000
DOMAINS = 20_000
BLOCK = 256 * 1024
NOW = 1_790_000_000.0


def postfix_lines() -> Iterator[str]:
    """What a relay logs: of each message that comes in and goes out, eight lines."""
    for n in range(LINES // 8):
        head = f"Nov 25 03:{n // 60 % 60:02}:{n % 60:02} alice postfix"
        q, pid, domain = f"4X{n:08x}", n % 200, f"d{n % DOMAINS}.example"
        mx = f"mx1.{domain}[192.0.{n % 250}.{n % 199}]"
        yield f"{head}/smtpd[{pid}]: connect from client.a.example[192.0.2.1]"
        yield f"{head}/smtpd[{pid}]: {q}: client=client.a.example[192.0.2.1]"
        yield f"{head}/cleanup[{pid}]: {q}: message-id=<{n}@a.example>"
        yield f"{head}/qmgr[9]: {q}: from=<a@a.example>, size=4096, nrcpt=1 (queue active)"
        yield (
            f"{head}/smtp[{pid}]: {'Trusted' if n % 10 == 0 else 'Verified'} TLS connection "
            f"established to {mx}:25: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) "
            "key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest SHA256"
        )
        to = f"{head}/smtp[{pid}]: {q}: to=<x@{domain}>, relay={mx}:25, delay=0.9, delays=0/0/0.5/0"
        if n % 10 == 0:
            yield f"{to}, dsn=4.7.5, status=deferred (Server certificate not verified)"
        else:
            yield f"{to}, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as {q})"
        yield f"{head}/qmgr[9]: {q}: removed"
        yield f"{head}/smtpd[{pid}]: disconnect from client.a.example[192.0.2.1] ehlo=2 quit=1"


def exim_lines() -> Iterator[str]:
    """The same as Exim has it: three lines a message."""
    for n in range(LINES // 3):
        head = f"2026-11-25 03:{n // 60 % 60:02}:{n % 60:02} 1tF{n % 1000:03}-{n:06}-2C"
        domain = f"d{n % DOMAINS}.example"
        yield f"{head} <= a@a.example H=c.a.example [192.0.2.1] P=esmtps S=4096 id={n}@a.example"
        yield (
            f"{head} => x@{domain} R=dnslookup T=remote_smtp H=mx1.{domain} [192.0.2.{n % 199}] "
            f'X=TLS1.3:TLS_AES_256_GCM_SHA384:256 CV=yes DN="CN=mx1.{domain}" C="250 OK id={n}"'
        )
        yield f"{head} Completed"


def memory() -> float:
    """The most that this process ever held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def logs(folder: Path) -> None:
    """Lines a second, from a file in the page cache to the counts in memory."""
    for name, made, kind in (
        ("Postfix", postfix_lines(), PostfixLog),
        ("Exim", exim_lines(), EximLog),
    ):
        path = folder / name
        with path.open("w") as out:
            out.writelines(line + "\n" for line in made)
        aggregate = Aggregate()
        lines, log = Lines(), kind(aggregate.take, Clock(NOW))
        start = time.perf_counter()
        with path.open("rb", buffering=0) as source:
            while block := source.read(BLOCK):
                for line in lines.feed(block):
                    log.line(line)
        seconds = time.perf_counter() - start
        print(
            f"{name}: {lines.lines / seconds:,.0f} lines/s ({path.stat().st_size / 1e6:,.0f} MB, "
            f"{aggregate.outcomes:,} sessions)"
        )


def datagram(n: int) -> bytes:
    """The n-th of many sessions; one of ten failed, each with another EHLO text."""
    name = f"d{n % DOMAINS}.example"
    failed = n // DOMAINS % 10 == 0
    details = (
        f'"failure-details":[{{"c":202,"s": "192.0.2.1","n": "mx.{name}",'
        f'"h": "250-mx{n}.{name}'
        f' {n}\\r\\n250 HELP","r": "192.0.2.2"}}],'
        if failed
        else ""
    )
    return (
        f'{{"d": "{name}","pr": "v=TLSRPTv1; rua=mailto:r@{name}","policies":[{{"policy-type":2,'
        f'"policy-domain": "{name}","policy-string":["version: STSv1","mode: enforce","mx: '
        f'mx.{name}","max_age: 86400"],"mx-host":["mx.{name}"],{details}"t":0,'
        f'"f":{int(failed)}}}]}}'
    ).encode()


def sessions(folder: Path) -> None:
    """A million sessions over 20,000 domains: parsed, counted, written every 100,000."""
    from smtp_sts.reporting.datagram import parse

    tallies = open_tallies(f"sqlite:///{folder}/s.db")
    aggregate = Aggregate()
    before, written = memory(), 0.0
    start = time.perf_counter()
    for n in range(SESSIONS):
        for outcome in parse(datagram(n), NOW):
            aggregate.take(outcome)
        if n % 100_000 == 99_999:
            mark = time.perf_counter()
            while batch := aggregate.drain():
                tallies.add(batch)
            written += time.perf_counter() - mark
    seconds = time.perf_counter() - start
    day = int(NOW // 86400)
    kept = tallies.everything(day)
    total = sum(r.successful + r.failed for _, r in kept)
    rows = sum(len(r.failures) for _, r in kept)
    tallies.close()
    print(
        f"{SESSIONS:,} sessions over {len(kept):,} domains: {seconds:.1f} s, of which writing "
        f"{written:.1f} s; {memory():.0f} MB at most ({before:.0f} MB before); {total:,} counted, "
        f"{rows:,} failure rows; {(folder / 's.db').stat().st_size / 1e6:.0f} MB on disk"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for measure in sys.argv[1:] or ["logs", "sessions"]:
            {"logs": logs, "sessions": sessions}[measure](Path(name))
