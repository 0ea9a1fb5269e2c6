"""DANE and STS together: laws 1, 3, 4 and 6, from the names in the DNS to the reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from smtp_sts.config import Override, PolicySection
from smtp_sts.lab.names import TTL, Names
from smtp_sts.mta.told import replies
from smtp_sts.resolver import overrides

from .scene import Scene, scene

TLSA = f"3 1 1 {'ab' * 32}"
SECURE = "OK secure match=mx.bob.example servername=hostname"
DANE = "OK dane-only"
LET = "NOTFOUND "
EACH = "OK dane"
TEMP = "TEMP the DANE state of bob.example cannot be determined"


def dane(names: Names) -> None:
    """bob.example is signed, and its one MX host has TLSA records."""
    names.sign("bob.example")
    names.put("bob.example", "DS", f"1 13 2 {'00' * 32}")
    names.put("bob.example", "MX", "10 mx.bob.example.")
    names.put("mx.bob.example", "A", "192.0.2.1")
    names.put("_25._tcp.mx.bob.example", "TLSA", TLSA)


def forged_mx(names: Names) -> None:
    """Mallory answers, unsigned, that the mail goes to a signed host with TLSA records: hers."""
    names.sign("mallory.example")
    names.put("bob.example", "MX", "10 mx.mallory.example.")
    names.put("mx.mallory.example", "A", "192.0.2.66")
    names.put("_25._tcp.mx.mallory.example", "TLSA", TLSA)


def one_without(names: Names) -> None:
    dane(names)
    names.put("bob.example", "MX", "10 mx.bob.example.", "20 bare.bob.example.")
    names.put("bare.bob.example", "A", "192.0.2.2")


def one_unknown(names: Names) -> None:
    one_without(names)
    names.spoil("_25._tcp.bare.bob.example", "servfail")


def one_without_address(names: Names) -> None:
    dane(names)
    names.put("bob.example", "MX", "10 mx.bob.example.", "20 gone.bob.example.")


def unusable(names: Names) -> None:
    dane(names)
    names.put("_25._tcp.mx.bob.example", "TLSA", f"1 1 1 {'ab' * 32}", f"3 1 7 {'ab' * 32}")


def mx_bogus(names: Names) -> None:
    dane(names)
    names.spoil("bob.example", "servfail", "MX")


def tlsa_bogus(names: Names) -> None:
    dane(names)
    names.spoil("_25._tcp.mx.bob.example", "servfail")


def unsigned_dead(names: Names) -> None:
    names.spoil("bob.example", "servfail", "MX")


def unsigned(names: Names) -> None:
    names.put("bob.example", "MX", "10 mx.bob.example.")
    names.put("mx.bob.example", "A", "192.0.2.1")


def play(
    tmp_path: Path,
    work: Callable[[Scene], Awaitable[None]],
    *,
    answer_timeout: float = 4.0,
    dane: bool = True,
    dns_timeout: float = 0.5,
) -> None:
    async def run() -> None:
        async with scene(tmp_path, answer_timeout, dane=dane) as s:
            if dns_timeout != s.dns_timeout:
                s.dns_timeout = dns_timeout
                await s.restart()
            await work(s)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("publish", "enforced", "tested", "alone"),
    [
        # the `postfix-dane` reply where an enforce policy is cached, testing or `none`, and none
        pytest.param(dane, DANE, DANE, DANE, id="law-3-dane-wins-where-all-of-it-is-secure"),
        pytest.param(forged_mx, SECURE, LET, LET, id="law-1-a-forged-mx-displaces-no-policy"),
        pytest.param(one_without, SECURE, EACH, EACH, id="law-3-one-mx-host-without-tlsa"),
        pytest.param(one_unknown, SECURE, DANE, DANE, id="law-3-one-mx-host-that-cannot-be-told"),
        pytest.param(one_without_address, DANE, DANE, DANE, id="no-mail-goes-where-no-address-is"),
        pytest.param(unusable, SECURE, EACH, EACH, id="law-3-no-usable-record"),
        pytest.param(mx_bogus, SECURE, TEMP, TEMP, id="law-3-bogus-mx-of-a-signed-domain"),
        pytest.param(tlsa_bogus, SECURE, TEMP, TEMP, id="law-3-bogus-tlsa-of-a-signed-domain"),
        pytest.param(unsigned_dead, SECURE, LET, LET, id="law-4-an-unsigned-domain-fails-open"),
        pytest.param(unsigned, SECURE, LET, LET, id="sts-alone"),
    ],
)
def test_precedence(
    tmp_path: Path, publish: Callable[[Names], None], enforced: str, tested: str, alone: str
) -> None:
    async def work(s: Scene) -> None:
        for mode, want in (
                ("", alone), ("none", tested), ("testing", tested), ("enforce", enforced),
            ):  # fmt: skip
            if mode:
                await s.world.publish("bob.example", mode, id=mode)
            publish(s.world.names)
            s.clock.now += 2000  # whatever was known is looked at again
            await s.decide()
            await s.settled()
            decision = await s.decide()
            assert replies(decision)["postfix-dane"] == want, (mode, decision)
            # Who does not ask for DANE gets what STS alone says: no `dane-only`, and nobody waits.
            assert replies(decision)["postfix"] == (SECURE if mode == "enforce" else LET)
            assert replies(decision)["sts"] == (SECURE if mode == "enforce" else LET)
            with_reports = replies(decision)["postfix-dane-tlsrpt"]
            assert with_reports.startswith("OK may " if (mode, want) == ("testing", LET) else want)

    play(tmp_path, work)


def test_law_1_a_cached_policy_outlives_dane_that_is_stripped(tmp_path: Path) -> None:
    async def work(s: Scene) -> None:
        await s.world.publish("bob.example")
        dane(s.world.names)
        assert replies(await s.decide())["postfix-dane"] == DANE
        s.world.names.sign("bob.example", signed=False)
        s.clock.now += TTL
        assert replies(await s.decide())["postfix-dane"] == SECURE

    play(tmp_path, work)


def test_dane_is_used_no_longer_than_its_records_live(tmp_path: Path) -> None:
    async def work(s: Scene) -> None:
        dane(s.world.names)
        decision = await s.decide()
        assert decision.outcome == "dane"
        assert decision.valid_until <= s.clock.now + TTL
        s.world.names.drop("_25._tcp.mx.bob.example", "TLSA")
        s.clock.now += TTL
        assert (await s.decide()).outcome == "no-policy"

    play(tmp_path, work)


def test_law_6_an_unexpired_policy_does_not_wait_for_a_dead_dns(tmp_path: Path) -> None:
    async def work(s: Scene) -> None:
        await s.world.publish("bob.example")
        await s.decide()
        await s.restart()
        s.world.names.spoil("bob.example", "timeout", "MX")
        s.world.names.spoil("bob.example", "timeout", "DS")
        loop = asyncio.get_running_loop()
        began = loop.time()
        decision = await s.decide()
        assert replies(decision)["postfix-dane"] == SECURE
        assert loop.time() - began < 1.3  # DANE_PATIENCE
        assert decision.valid_until <= s.clock.now + 1.0
        await s.settled()
        began = loop.time()
        assert replies(await s.decide())["postfix-dane"] == SECURE
        assert loop.time() - began < 0.2

    play(tmp_path, work)


@pytest.mark.parametrize("signed", [True, False])
def test_law_4_a_domain_that_cannot_be_told_in_time_is_let_through(
    tmp_path: Path, signed: bool
) -> None:
    """Unsigned, or with a zone above that does not say in time whether it is signed."""

    async def work(s: Scene) -> None:
        dane(s.world.names)
        s.world.names.sign("bob.example", signed=signed)
        s.world.names.spoil("bob.example", "timeout", "MX")
        if signed:
            s.world.names.spoil("bob.example", "timeout", "DS")
        decision = await s.decide()
        assert replies(decision)["postfix-dane"] == LET
        assert s.counts["dane-timeout"] == 1
        s.world.names.mend("bob.example", "MX")
        await s.settled()
        s.clock.now += 30
        assert replies(await s.decide())["postfix-dane"] == (DANE if signed else LET)

    play(tmp_path, work, answer_timeout=0.2)


@pytest.mark.parametrize(
    ("name", "rrtype"),
    [("bob.example", "MX"), ("mx.bob.example", "*"), ("_25._tcp.mx.bob.example", "*")],
)
def test_law_3_a_signed_domain_whose_dns_is_only_slow_is_not_let_through(
    tmp_path: Path, name: str, rrtype: str
) -> None:
    """Slower than an answer may be: that the domain is signed is known before."""

    async def work(s: Scene) -> None:
        dane(s.world.names)
        s.world.names.spoil(name, "timeout", rrtype)
        began = asyncio.get_running_loop().time()
        assert replies(await s.decide())["postfix-dane"] == TEMP
        assert asyncio.get_running_loop().time() - began < 2.5
        assert s.resolver.looks.running  # the look goes on behind the answer
        await s.world.publish("bob.example", "enforce")
        await s.resolver.renew("bob.example")
        assert replies(await s.decide())["postfix-dane"] == SECURE
        s.world.names.mend(name, rrtype)
        await s.settled()
        s.clock.now += 3600
        await s.decide()
        await s.settled()
        assert replies(await s.decide())["postfix-dane"] == DANE

    play(tmp_path, work, answer_timeout=1.0, dns_timeout=3.0)


@pytest.mark.parametrize("defect", ["timeout", "servfail"])
@pytest.mark.parametrize("blocked", ["all", "mx", "tlsa"])
def test_law_3_a_known_dane_stays_until_a_look_says_otherwise(
    tmp_path: Path, defect: str, blocked: str
) -> None:
    """Who can make the DNS fail cannot have a domain taken for one without DANE, whether its
    records' time is over and a look is under way, or has failed, once or often."""
    names = {
        "all": [("bob.example", "MX"), ("bob.example", "DS"), ("mx.bob.example", "*")],
        "mx": [("bob.example", "MX")],
        "tlsa": [("_25._tcp.mx.bob.example", "*")],
    }[blocked]

    async def work(s: Scene) -> None:
        dane(s.world.names)
        assert replies(await s.decide())["postfix-dane"] == DANE
        for name, rrtype in names:
            s.world.names.spoil(name, "timeout" if defect == "timeout" else "servfail", rrtype)
        s.clock.now += TTL
        loop = asyncio.get_running_loop()
        for _ in range(3):
            began = loop.time()
            assert replies(await s.decide())["postfix-dane"] == DANE
            assert loop.time() - began < 1.3  # DANE_PATIENCE
            await s.settled()
            assert replies(await s.decide())["postfix-dane"] == DANE
            s.clock.now += 31
        # with a policy in force one DNS failure holds no mail back
        await s.world.publish("bob.example", "enforce")
        await s.resolver.renew("bob.example")
        await s.decide()
        await s.settled()
        assert replies(await s.decide())["postfix-dane"] == SECURE
        for name, rrtype in names:
            s.world.names.mend(name, rrtype)
        s.clock.now += 31
        assert replies(await s.decide())["postfix-dane"] == DANE
        s.world.names.drop("_25._tcp.mx.bob.example", "TLSA")
        s.clock.now += TTL
        assert replies(await s.decide())["postfix-dane"] == SECURE

    play(tmp_path, work, answer_timeout=2.0)


def test_law_3_what_cannot_be_told_is_not_let_through_while_it_is_looked_at_anew(
    tmp_path: Path,
) -> None:
    async def work(s: Scene) -> None:
        tlsa_bogus(s.world.names)
        assert replies(await s.decide())["postfix-dane"] == TEMP
        for rrtype in ("MX", "DS"):
            s.world.names.spoil("bob.example", "timeout", rrtype)
        s.clock.now += 31
        assert replies(await s.decide())["postfix-dane"] == TEMP  # the look has heard nothing yet
        assert s.resolver.looks.running

    play(tmp_path, work, answer_timeout=0.3)


def test_no_dane_where_the_operator_says_so(tmp_path: Path) -> None:
    async def work(s: Scene) -> None:
        await s.world.publish("bob.example")
        dane(s.world.names)
        s.rules = overrides.read({".example": Override(dane=False)})
        await s.restart()
        assert replies(await s.decide())["postfix-dane"] == SECURE
        assert not s.world.names.queries["_25._tcp.mx.bob.example", "TLSA"]
        s.rules = {}
        await s.restart()
        assert replies(await s.decide())["postfix-dane"] == DANE

    play(tmp_path, work)


def test_no_dane_without_a_resolver_that_is_trusted(tmp_path: Path) -> None:
    async def work(s: Scene) -> None:
        await s.world.publish("bob.example")
        dane(s.world.names)
        s.trust_ad = False
        await s.restart()
        assert not s.resolver.dane
        assert replies(await s.decide())["postfix-dane"] == SECURE

    play(tmp_path, work)


def test_one_look_however_many_ask(tmp_path: Path) -> None:
    async def work(s: Scene) -> None:
        dane(s.world.names)
        decisions = await asyncio.gather(*(s.decide() for _ in range(50)))
        assert {decision.outcome for decision in decisions} == {"dane"}
        assert s.world.names.queries["bob.example", "MX"] == 1

    play(tmp_path, work)


def test_steps_tell_which_records_are_unusable_and_what_would_help(tmp_path: Path) -> None:
    async def work(s: Scene) -> None:
        unusable(s.world.names)
        decision = await s.decide()
        told = " | ".join(step.text for step in decision.steps)
        for part in ("TLSA 1 1 1: usages 0 and 1", "matching type 7", "would make DANE apply"):
            assert part in told

    play(tmp_path, work)


def test_dane_can_be_switched_off(tmp_path: Path) -> None:
    assert PolicySection().dane
    play(tmp_path, _off, dane=False)


async def _off(s: Scene) -> None:
    dane(s.world.names)
    assert (await s.decide()).outcome == "no-policy"
    assert not s.world.names.queries["bob.example", "MX"]
