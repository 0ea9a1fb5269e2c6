"""Policies stand in reports as their domains declared them, faults included (RFC 8460 4.5)."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from smtp_sts.lab.policyhost import Page
from smtp_sts.policy import Policy
from smtp_sts.reporting.datagram import MAX_ENTRIES, parse
from smtp_sts.reporting.declared import MAX_LINES, as_declared, declared_lines
from smtp_sts.reporting.looks import not_refreshed
from smtp_sts.reporting.own_knowledge import as_known
from smtp_sts.resolver.decision import Decision
from smtp_sts.store import Stored, open_store
from smtp_sts.store.tallies import Tally
from smtp_sts.tlsrpt import AppliedPolicy, PolicyResult, open_report

from ..resolver.scene import HOST, scene
from .post_office import PostOffice

TEXT = (
    "version: STSv1\nx-comment: ours, since Tuesday\nmode:enforce \nmax_age: 99999999\n\n"
    "mx: MX.bob.example\nmx: *.bob.example\nmx: mx.bob.example\n"
)
LINES = (
    "version: STSv1", "x-comment: ours, since Tuesday", "mode:enforce", "max_age: 99999999",
    "mx: MX.bob.example", "mx: *.bob.example", "mx: mx.bob.example",
)  # fmt: skip
POLICY = Policy.parse(TEXT.encode())


def _applied(lines: tuple[str, ...], mx: tuple[str, ...] = POLICY.mx) -> PolicyResult:
    return PolicyResult(AppliedPolicy("sts", "bob.example", lines, mx), 5, 1)


@pytest.mark.parametrize(
    ("lines", "same"),
    [
        (POLICY.lines(), True),
        (POLICY.lines()[:3], True),  # what an MTA was told may be a part
        ((*POLICY.lines()[:3], "(17 more lines, left out)"), True),
        ((), False),  # nothing tells which policy it was
        ((*POLICY.lines(), "mx: mx2.bob.example"), False),
        (tuple(line.replace("enforce", "testing") for line in POLICY.lines()), False),
        (tuple(line.replace("31557600", "86400") for line in POLICY.lines()), False),
    ],
)
def test_the_text_of_the_very_policy_takes_the_place_of_canonical_lines(
    lines: tuple[str, ...], same: bool
) -> None:
    other = PolicyResult(AppliedPolicy("tlsa", "bob.example", lines), 1, 0)
    result, untouched = as_declared([_applied(lines, ()), other], {"bob.example": TEXT})
    assert result.policy.policy_string == (LINES if same else lines)
    assert result.policy.mx_host == (POLICY.mx if same else ())
    assert untouched == other
    assert as_declared([_applied(lines)], {"bob.example": "somebody else's"}) == [_applied(lines)]
    assert as_declared([_applied(lines)], {}) == [_applied(lines)]


def test_what_is_cut_of_a_policy_says_so() -> None:
    (line,) = declared_lines("x: " + "y" * 5000)
    assert len(line) == 2048 and line.endswith(" (cut)")
    lines = declared_lines("mx: a.example\n" * (MAX_LINES + 5))
    assert lines[-1] == "(5 more lines, left out)"
    assert declared_lines("a: b\x1b[2J\u202ec\r\n") == ("a: b [2J c",)
    told = [f"mx: m{n}.bob.example" for n in range(MAX_ENTRIES + 7)]
    policy = {"policy-type": 2, "policy-domain": "bob.example", "policy-string": told, "f": 0}
    data = {"d": "bob.example", "pr": "v=TLSRPTv1; rua=mailto:r@x.example", "policies": [policy]}
    (outcome,) = parse(json.dumps(data).encode(), 0.0)
    assert outcome.policy is not None
    assert outcome.policy.policy_string[-1] == "(7 more lines, left out)"


def test_a_report_has_the_text_that_the_store_keeps(tmp_path: Path) -> None:
    async def act() -> None:
        async with PostOffice(tmp_path) as office:
            office.ask("bob.example", "mailto:r@bob.example")
            office.count("bob.example")
            text = (
                "version: STSv1\r\nx-note: here\r\nmode:   enforce\r\nmax_age: 86400\r\n"
                "mx: mx.bob.example\r\n"
            )
            store, now = open_store(office.url), time.time()
            store.put([Stored("bob.example", "1", text, now, now + 9e4, now + 9e3, now)])
            store.close()
            await office.while_delivering(office.settled)
            (mail,) = office.mta.contents()
            read = open_report(mail).read
            assert read.oddities == ()
            assert list(read.report.policies[0].policy.policy_string) == text.split("\r\n")[:-1]

    asyncio.run(act())


def test_what_was_served_lasts_in_the_store_and_applies_after_a_restart(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example")
            served = s.world.policy_hosts.pages[HOST].body.replace(b"mode:", b"x-note: y\r\nmode:")
            s.world.policy_hosts.pages[HOST] = Page(served)
            first = await s.decide()
            kept = await s.keeper.get("bob.example")
            assert kept is not None and kept.body == served.decode()
            assert first.outcome == "enforce"
            await s.restart()
            again = await s.decide()
            assert (again.policy, again.outcome) == (first.policy, "enforce")

    asyncio.run(play())


def test_a_policy_that_is_not_valid_is_reported_with_its_text(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example")
            served = b"version: STSv1\nmode: enforced\n" + b"x" * 5000
            s.world.policy_hosts.pages[HOST] = Page(served)
            decision = await s.decide()
            assert decision.reason == "sts-policy-invalid"
            assert len(decision.declared) < 1100
            none = AppliedPolicy("no-policy-found", "bob.example")
            tally = as_known(Tally(1, "bob.example", "", PolicyResult(none, 3, 0)), decision)
            assert tally.result.policy.policy_string[:2] == ("version: STSv1", "mode: enforced")
            assert tally.result.policy.policy_string[-1].startswith("(cut: 4,0")

    asyncio.run(play())


def test_rfc8461_section_6_a_failed_refresh_is_reported_while_the_policy_applies(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with scene(tmp_path) as s:
            await s.world.publish("bob.example")
            good = s.world.policy_hosts.pages[HOST]
            assert not_refreshed("bob.example", await s.decide(), 1) is None
            s.world.policy_hosts.pages[HOST] = Page(b"gone")
            await s.resolver.refresh("bob.example")
            decision = await s.decide()
            assert decision.outcome == "enforce"
            tally = not_refreshed("bob.example", decision, 7)
            assert tally is not None and decision.policy is not None
            policy = AppliedPolicy(
                "sts", "bob.example", decision.policy.lines(), decision.policy.mx
            )
            (failure,) = tally.result.failures
            assert tally.result == PolicyResult(policy, 0, 1, (failure,))
            assert (failure.result_type, failure.failed_session_count) == ("sts-policy-invalid", 1)
            assert failure.failure_reason_code.startswith("sender-check: policy-line: ")
            s.world.policy_hosts.pages[HOST] = good
            s.clock.now += 86400
            await s.resolver.refresh("bob.example")
            assert not_refreshed("bob.example", await s.decide(), 7) is None

    asyncio.run(play())


def test_who_took_his_policy_back_hears_of_no_failed_refresh() -> None:
    policy = Policy.parse(b"version: STSv1\nmode: none\nmax_age: 86400\n")
    none = Decision("b.example", "none", "policy-found", policy=policy, refresh_fault="dns-error")
    assert not_refreshed("b.example", none, 1) is None
