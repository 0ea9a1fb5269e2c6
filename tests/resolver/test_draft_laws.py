"""The first draft in the resolver: the laws across the dialect, and what the draft itself demands.

What can be seen from outside is in the lab's scenarios, tag `draft`; here the clock can be moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from smtp_sts.config import Override, PolicySection
from smtp_sts.lab.world import World
from smtp_sts.mta.line import answer as line_answer
from smtp_sts.mta.tcp_table import answer as tcp_table_answer
from smtp_sts.mta.told import replies
from smtp_sts.policy import Dialect
from smtp_sts.resolver import Decision, overrides
from smtp_sts.resolver.dane_looks import SLOW_FACTOR
from smtp_sts.resolver.decision import Draft
from smtp_sts.store import Stored, open_store

from .scene import Scene, scene

TXT = "_smtp_sts.bob.example"
MX = "mx.bob.example"
URL = "https://bob.example/.well-known/smtp-sts/current"
BOTH: tuple[Dialect, ...] = ("rfc8461", "draft00")


def record(
    to: str = "true", mx: str = MX, a: str = f"webpki:{URL}", c: str = "webpki", e: int = 86400
) -> str:
    mechanism = f"a={a}; " if a else ""
    return f"v=STS1; to={to}; mx={mx}; {mechanism}c={c}; e={e}"


class Play(Scene):
    """A scene in which bob.example has a policy of the draft."""

    dns_timeout = 2.0
    fetch_timeout = 6.0

    def forge(self, text: str) -> None:
        """mallory writes the TXT record; the HTTPS host is not hers."""
        self.world.names.put(TXT, "TXT", f'"{text}"')

    async def met(self) -> Decision:
        """The decision once all that it has started has ended."""
        await self.decide()
        await self.settled()
        return await self.decide()

    async def rechecked(self) -> Decision:
        await self.recheck()
        return await self.decide()

    @property
    def https(self) -> int:
        return self.world.policy_hosts.handshakes["bob.example"]


@asynccontextmanager
async def play(
    tmp_path: Path,
    text: str = "",
    *,
    dialects: tuple[Dialect, ...] = BOTH,
    dane: bool = True,
    answer_timeout: float = 4.0,
    max_lookups: int = 500,
) -> AsyncIterator[Play]:
    async with World() as world:
        await world.receive("bob.example", MX)
        if text:
            world.publish_draft("bob.example", text)
        settings = PolicySection(dane=dane, answer_timeout=answer_timeout, max_lookups=max_lookups)
        made = Play(world, tmp_path / "s.db", settings, dialects)
        try:
            yield made
        finally:
            await made.stop()


def test_first_use_is_let_through_and_then_enforced(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            first = await s.decide()
            assert (first.outcome, first.reason) == ("testing", "never-validated")
            assert first.policy and first.policy.mode == "enforce"
            second = await s.met()
            assert (second.outcome, second.reason, second.dialect) == (
                "enforce", "policy-found", "draft00",
            )  # fmt: skip
            assert second.draft and second.draft.authenticated
            assert second.draft.applied
            assert s.counts["draft-check-met"] == s.counts["draft-proof-good"] == 1
            # Section 3.2: from the last fetch, which is that of the proof; no TTL is added.
            assert second.expires_at == s.clock.now + 86400

    asyncio.run(run())


def test_law_4_a_policy_that_was_never_met_refuses_no_mail(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record(mx="mx.mallory.example")) as s:
            for _ in range(3):
                decision = await s.met()
                assert (decision.outcome, decision.reason) == ("testing", "never-validated")
                assert replies(decision)["postfix"] == replies(decision)["sts"] == "NOTFOUND "
                s.clock.now += 900

    asyncio.run(run())


def test_law_4_dane_does_not_make_a_policy_bind_that_was_never_met(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record(mx="mx.mallory.example")) as s:
            s.world.names.sign("example")
            spki = s.world.authority.key_digest(MX)
            s.world.names.put(f"_{s.world.smtp_port}._tcp.{MX}", "TLSA", f"3 1 1 {spki}")
            decision = await s.met()
            assert (decision.outcome, decision.reason) == ("dane", "tlsa-usable")  # law 3
            told = replies(decision)
            assert (told["postfix-dane"], told["sts"]) == ("OK dane-only", "NOTFOUND ")
            assert told["postfix"] == "NOTFOUND "
            assert line_answer(decision) == b"none\n"

    asyncio.run(run())


def test_section_3_3_a_first_policy_is_believed_unproven(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            page = s.world.policy_hosts.pages["bob.example"]
            s.world.policy_hosts.pages["bob.example"] = replace(page, status=404)
            decision = await s.met()
            assert decision.outcome == "enforce"  # "MUST be trusted and honored"
            assert decision.draft and not decision.draft.authenticated
            s.world.policy_hosts.pages["bob.example"] = page
            s.clock.now += 300
            await s.decide()
            await s.settled()
            decision = await s.decide()
            assert decision.draft and decision.draft.authenticated

    asyncio.run(run())


@pytest.mark.parametrize(
    "forged",
    [
        record(to="false"),
        record(mx="mx.mallory.example"),
        record(a="dnssec", to="false"),
        record(a="", to="false"),
        record(a="webpki:https://www.bob.example/mine", to="false"),
        "v=STS1; to=false; mx=a.example; mx=b.example",
        "v=STS1; to=nonsense",
        "v=spf1 -all",
    ],
)
def test_law_1_no_unproven_record_replaces_an_unexpired_policy(tmp_path: Path, forged: str) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            before = await s.met()
            assert before.outcome == "enforce"
            # mallory has a host of bob's, with a good certificate: a customer's web site.
            s.world.publish_draft(
                "x.example", f"v=STS1; a=webpki:https://www.bob.example/mine {forged}"
            )
            s.forge(forged)
            for _ in range(4):
                after = await s.rechecked()
                assert (after.outcome, after.policy, after.expires_at) == (
                    "enforce", before.policy, before.expires_at,
                )  # fmt: skip
            await s.restart()
            assert (await s.decide()).outcome == "enforce"

    asyncio.run(run())


def test_law_1_whoever_runs_another_host_of_the_domain_cannot_replace_its_policy(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            assert (await s.met()).outcome == "enforce"
            mine = record(to="false", a="webpki:https://www.bob.example/mine")
            page = s.world.policy_hosts.pages["bob.example"]
            s.world.publish_draft("bob.example", mine)
            assert s.world.policy_hosts.pages["bob.example"] == page  # bob's own is as before
            assert (await s.rechecked()).outcome == "enforce"
            assert s.world.policy_hosts.handshakes["www.bob.example"] == 0

    asyncio.run(run())


def test_a_body_that_differs_by_one_blank_replaces_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            await s.met()
            s.world.publish_draft("bob.example", record(to="false"))
            page = s.world.policy_hosts.pages["bob.example"]
            s.world.policy_hosts.pages["bob.example"] = replace(page, body=page.body + b" ")
            decision = await s.rechecked()
            assert decision.outcome == "enforce"
            assert "after the record's text" in str(decision.steps)
            s.world.policy_hosts.pages["bob.example"] = page
            s.clock.now += 300
            assert (await s.rechecked()).outcome == "testing"

    asyncio.run(run())


@pytest.mark.parametrize("type", ["drop", "servfail", "timeout"])
def test_law_1_what_the_dns_does_not_say_weakens_nothing(tmp_path: Path, type: str) -> None:
    async def run() -> None:
        async with play(tmp_path, record(e=1000)) as s:
            before = await s.met()
            if type == "drop":
                s.world.names.drop(TXT, "TXT")
            else:
                s.world.names.spoil(TXT, "servfail" if type == "servfail" else "timeout", "TXT")
            for _ in range(2):
                after = await s.rechecked()
                assert (after.outcome, after.expires_at) == ("enforce", before.expires_at)
            await s.restart()
            assert (await s.decide()).outcome == "enforce"
            s.clock.now = before.expires_at or 0
            assert (await s.decide()).outcome == "no-policy"  # law 2

    asyncio.run(run())


def test_law_2_only_a_proof_prolongs_a_policy(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record(e=1000)) as s:
            first = await s.met()
            page = s.world.policy_hosts.pages["bob.example"]
            s.world.policy_hosts.pages["bob.example"] = replace(page, status=500)
            for _ in range(3):
                again = await s.rechecked()
                assert again.expires_at == first.expires_at
                assert again.valid_until <= (first.expires_at or 0)
            await s.restart()
            assert (await s.decide()).expires_at == first.expires_at
            s.world.policy_hosts.pages["bob.example"] = page
            await s.resolver.refresh(TXT)
            assert (await s.decide()).expires_at == s.clock.now + 1000

    asyncio.run(run())


@pytest.mark.parametrize(
    "forged",
    [
        record(mx="mx.mallory.example", e=31557600, a="dnssec"),
        record(mx="mx.mallory.example", e=31557600, a=""),
        record(to="false", e=31557600, a="dnssec"),
    ],
)
def test_a_forged_first_policy_does_not_keep_out_the_domains_own(
    tmp_path: Path, forged: str
) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            s.forge(forged)
            first = await s.met()
            assert first.outcome == "testing"
            for _ in range(2):  # she goes on with it
                assert (await s.rechecked()).expires_at == first.expires_at
            await s.restart()
            s.world.publish_draft("bob.example", record())
            await s.rechecked()
            own = await s.met()
            assert (own.outcome, own.policy and own.policy.mx) == ("enforce", (MX,))
            assert own.draft and own.draft.authenticated
            s.forge(forged)  # and it stays
            assert (await s.rechecked()).outcome == "enforce"

    asyncio.run(run())


def test_law_2_a_policy_that_was_never_proven_ends_when_it_says(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            s.forge(record(mx="mx.mallory.example", e=1000, a="dnssec"))
            first = await s.met()
            assert (await s.rechecked()).expires_at == first.expires_at
            s.world.names.spoil(TXT, "servfail", "TXT")
            s.clock.now = first.expires_at or 0
            assert (await s.met()).outcome == "no-policy"

    asyncio.run(run())


def test_law_1_an_unproven_policy_that_was_met_is_not_replaced_unproven(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record(a="")) as s:  # nothing can ever prove it
            before = await s.met()
            assert before.outcome == "enforce"
            assert before.draft and not before.draft.authenticated
            for forged in (record(to="false"), record(mx="mx.mallory.example", a="")):
                s.forge(forged)
                assert (await s.rechecked()).outcome == "enforce"
            # Nor by the word of another daemon, which has not seen it met.
            other = await s.keeper.get(TXT)
            assert other
            body = other.body.replace(MX, "mx.mallory.example").replace(
                '"applied":true', '"applied":false'
            )
            assert body != other.body
            later = s.clock.now
            await s.resolver.learn(msgspec.structs.replace(other, body=body, fetched_at=later))
            after = await s.decide()
            assert (after.outcome, after.policy) == ("enforce", before.policy)

    asyncio.run(run())


def test_section_3_3_a_proven_replacement_that_nobody_meets_is_disregarded(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            await s.met()
            s.world.publish_draft("bob.example", record(mx="mx2.bob.example"))
            decision = await s.rechecked()
            assert (decision.outcome, decision.policy and decision.policy.mx) == ("enforce", (MX,))
            await s.world.receive("bob.example", "mx2.bob.example")
            decision = await s.rechecked()
            assert decision.outcome == "enforce"
            assert decision.policy and decision.policy.mx == ("mx2.bob.example",)

    asyncio.run(run())


def test_section_3_5_a_failure_brings_about_a_look_for_a_new_policy(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            await s.met()
            s.world.publish_draft("bob.example", record(to="false"))
            s.resolver.failed("bob.example")  # no recheck is due
            assert (await s.met()).outcome == "testing"
            s.resolver.failed("eve.example")  # nothing is known of it, and nothing asked

    asyncio.run(run())


def test_that_a_policy_was_met_outlives_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            await s.met()
            s.world.receivers[MX].starttls = False
            await s.restart()
            decision = await s.met()
            assert (decision.outcome, decision.source) == ("enforce", "cache")
            assert decision.draft == Draft(
                record(), "webpki", f"webpki:{URL}", authenticated=True, applied=True
            )

    asyncio.run(run())


def test_law_1_rfc_8461_goes_before_the_draft(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record(to="false")) as s:
            await s.world.publish("bob.example", "enforce")
            decision = await s.met()
            assert (decision.outcome, decision.dialect) == ("enforce", "rfc8461")
            asked = s.world.names.queries[TXT, "TXT"]
            assert (await s.rechecked()).dialect == "rfc8461"
            assert s.world.names.queries[TXT, "TXT"] == asked  # no question while it is in force
            await s.world.publish("eve.example", "testing")
            s.world.publish_draft("eve.example", record(mx="mx.eve.example").replace("bob", "eve"))
            await s.resolver.decide("eve.example")
            await s.settled()
            assert (await s.resolver.decide("eve.example")).outcome == "testing"

    asyncio.run(run())


def test_law_1_a_policy_that_refuses_nothing_lets_no_mail_out_that_dnssec_holds(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with play(tmp_path, record(to="false")) as s:
            s.world.names.delegate("bob.example", signed=True)
            assert (await s.met()).outcome == "testing"
            s.world.names.spoil("bob.example", "bogus", "MX")
            s.clock.now += 3600
            decision = await s.met()
            assert (decision.outcome, decision.reason) == ("temporary-failure", "dnssec-invalid")

    asyncio.run(run())


def test_c_tlsa_with_dnssec_and_without(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record(c="tlsa", a="dnssec")) as s:
            decision = await s.met()
            assert (decision.outcome, decision.reason) == ("testing", "never-validated")
            s.world.names.delegate("bob.example", signed=True)
            spki = s.world.authority.key_digest(MX)
            name = f"_{s.world.smtp_port}._tcp.{MX}"
            s.world.names.put(name, "TLSA", f"3 1 1 {spki}")
            s.clock.now += 3600
            decision = await s.met()
            assert decision.outcome == "dane"
            assert decision.draft and decision.draft.applied
            assert decision.draft.authenticated
            s.world.names.drop(name, "TLSA")  # RFC 7672 asks for nothing now; the policy does
            s.clock.now += 3600
            decision = await s.met()
            assert (decision.outcome, decision.reason) == ("dane", "tlsa-required")
            told = replies(decision)
            assert told["postfix-dane-tlsrpt"] == "OK dane-only"
            assert told["postfix-tlsrpt"].startswith(
                "OK may servername=hostname policy_type=sts "
            )  # as with DANE off
            assert replies(decision)["sts"] == "NOTFOUND "
            s.rules = overrides.read({"bob.example": Override(dane=False)})
            await s.restart()
            assert replies(await s.met())["postfix"] == "NOTFOUND "

    asyncio.run(run())


def test_dane_that_the_operator_has_switched_off_is_not_demanded(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record(c="tlsa"), dane=False) as s:
            decision = await s.met()
            assert (decision.outcome, decision.reason) == ("testing", "never-validated")
            assert "TLSA records are not looked for here" in str(decision.steps)

    asyncio.run(run())


def test_law_6_nobody_waits_for_a_proof(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            page = s.world.policy_hosts.pages["bob.example"]
            s.world.policy_hosts.pages["bob.example"] = replace(page, manner="silence")
            began = asyncio.get_running_loop().time()
            assert (await s.decide()).outcome == "testing"
            assert asyncio.get_running_loop().time() - began < s.fetch_timeout - 1.0

    asyncio.run(run())


def test_law_6_slow_proofs_of_some_keep_nobody_else_from_an_answer(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record(), max_lookups=1) as s:
            for number in range(2 * SLOW_FACTOR):
                name = f"d{number}.example"
                url = f"https://{name}/.well-known/smtp-sts/current"
                s.world.publish_draft(name, record(mx=f"mx.{name}", a=f"webpki:{url}"))
                page = s.world.policy_hosts.pages[name]
                s.world.policy_hosts.pages[name] = replace(page, manner="silence")
                assert (await s.resolver.decide(name)).reason == "never-validated"
            assert s.resolver.running >= 2 * SLOW_FACTOR
            assert (await s.decide()).reason == "never-validated"

    asyncio.run(run())


def test_law_7_records_of_any_kind_end_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path) as s:
            for n, text in enumerate(
                (
                    record(e=0), record(e=10**39), record(a="webpki:https://eve.example/"),
                    record(a="webpki:https://a:b@bob.example/"), record(mx="*"),
                    record(a="webpki:https://bob.example:8443/"), "v=STS1", record() + "; x=1",
                )
            ):  # fmt: skip
                domain = f"d{n}.example"
                s.world.names.put(f"_smtp_sts.{domain}", "TXT", f'"{text}"')
                decision = await s.resolver.decide(domain)
                assert (decision.outcome, decision.reason) == ("no-policy", "no-record"), text
                assert "d{n}" not in str(decision.steps)
            assert s.counts["draft-sts-record-invalid"] == 8
            long = ".".join(["a" * 60] * 4)
            assert (await s.resolver.decide(long)).outcome == "no-policy"
            assert s.counts["draft-no-record"] == 1

    asyncio.run(run())


def test_the_draft_alone_asks_for_nothing_of_rfc_8461(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record(), dialects=("draft00",)) as s:
            await s.world.publish("bob.example", "enforce")
            assert (await s.met()).dialect == "draft00"
            assert s.world.names.queries["_mta-sts.bob.example", "TXT"] == 0

    asyncio.run(run())


def test_switched_off_it_asks_for_nothing_and_what_was_kept_waits(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            await s.met()
        async with scene(tmp_path) as off:
            await off.world.receive("bob.example", MX)
            off.world.publish_draft("bob.example", record())
            assert (await off.decide()).outcome == "no-policy"
            assert off.world.names.queries[TXT, "TXT"] == 0
            off.clock.now += 80000
            assert await off.keeper.due(off.clock.now, 10) == [TXT]
            await off.resolver.refresh(TXT)
            assert await off.keeper.due(off.clock.now, 10) == []

    asyncio.run(run())


def test_the_store_keeps_both_dialects_of_a_domain(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            await s.met()
            await s.world.publish("bob.example", "enforce")
            s.clock.now += 2000
            await s.met()
            store = open_store(f"sqlite:///{tmp_path / 's.db'}")
            kept = store.get(["bob.example", TXT])
            store.close()
            assert set(kept) == {"bob.example", TXT}
            assert await s.resolver.purge("bob.example", s.clock.now)
            assert await s.keeper.get(TXT) is None
            assert await s.keeper.get("bob.example") is None

    asyncio.run(run())


def test_a_fleet_learns_what_another_daemon_has_met_and_no_less(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            await s.decide()
            unproven = await s.keeper.get(TXT)
            await s.settled()
            met = await s.keeper.get(TXT)
            assert unproven and met
            await s.resolver.learn(unproven)  # law 1
            assert (await s.decide()).outcome == "enforce"
            await s.resolver.learn(
                Stored(TXT, "x", "garbage", s.clock.now + 1, s.clock.now + 9, 0, 0)
            )
            assert (await s.decide()).outcome == "enforce"

    asyncio.run(run())


def test_a_clock_that_is_set_and_a_store_that_is_lost_cost_no_policy(tmp_path: Path) -> None:
    async def run() -> None:
        async with play(tmp_path, record()) as s:
            before = await s.met()
            assert await s.resolver.holds("bob.example")
            s.clock.now -= 40_000
            s.resolver.clock_set(-40_000)
            assert (await s.rechecked()).outcome == "enforce"
            assert s.https == 2  # proven anew: its fetch was in the future
            assert (await s.decide()).expires_at == s.clock.now + 86400 != before.expires_at
            assert await s.keeper.purge(TXT, 2_000_000_000)
            s.keeper._purged.clear()
            s.keeper.on_replaced()
            await s.restart()
            decision = await s.decide()
            assert (decision.outcome, decision.source) == ("enforce", "cache")

    asyncio.run(run())


def decision(
    mx: tuple[str, ...] = (MX,),
    outcome: str = "enforce",
    *,
    authenticated: bool = True,
    applied: bool = True,
) -> Decision:
    from smtp_sts.policy import Policy

    mode = "enforce" if outcome == "enforce" else "testing"
    draft = Draft("v=STS1; to=true", "webpki", "", authenticated, applied)
    policy = Policy(mode, mx, 99, "STS1")  # type: ignore[arg-type]
    return Decision("bob.example", outcome, "policy-found", policy=policy, draft=draft)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "postfix", "tlsrpt"),
    [
        (decision(), f"OK secure match={MX} servername=hostname",
         f"OK secure match={MX} servername=hostname policy_type=sts policy_domain=bob.example "
         f"mx_host_pattern={MX} {{ policy_string = v=STS1; to=true }}"),
        # A pattern of any depth is one for `match=`, and none for `mx_host_pattern`.
        (decision(("*.bob.example",)), "OK secure match=.bob.example servername=hostname",
         "OK secure match=.bob.example servername=hostname"),
        (decision(outcome="testing"), "NOTFOUND ",
         "OK may servername=hostname policy_type=sts policy_domain=bob.example "
         f"mx_host_pattern={MX} "
         "{ policy_string = v=STS1; to=true }"),
        # `OK may` can be less than what the operator has set: not on anybody's word.
        (decision(outcome="testing", authenticated=False), "NOTFOUND ", "NOTFOUND "),
        (decision((), "testing"), "NOTFOUND ", "NOTFOUND "),
    ],
)  # fmt: skip
def test_what_each_reply_profile_says(what: Decision, postfix: str, tlsrpt: str) -> None:
    told = replies(what)
    assert (told["postfix"], told["postfix-tlsrpt"]) == (postfix, tlsrpt)
    enforced = postfix.startswith("OK")
    assert told["sts"] == postfix
    assert told["postfix-no-sni"] == postfix.removesuffix(" servername=hostname")
    assert line_answer(what).startswith(b"enforce" if enforced else b"none")
    assert tcp_table_answer(what).startswith(b"200 secure" if enforced else b"500 ")


def test_testing_as_enforce_enforces_nothing_that_was_never_met() -> None:
    rule = overrides.read({"bob.example": Override(testing_as_enforce=True)})["bob.example"]
    assert overrides.adapt(rule, decision(outcome="testing")).outcome == "enforce"
    never = decision(outcome="testing", applied=False)
    assert overrides.adapt(rule, never) == never
    nameless = decision((), "testing")
    assert overrides.adapt(rule, nameless) == nameless


def test_law_1_in_a_fleet_the_proven_policy_goes_before_a_later_unproven_one(
    tmp_path: Path,
) -> None:
    """mallory has told the other daemon of her record, when it met the domain for the first time;
    both write into one store."""

    async def run() -> None:
        (tmp_path / "other").mkdir()
        async with play(tmp_path, record()) as s, play(tmp_path / "other") as other:
            assert (await s.met()).outcome == "enforce"
            proven = await s.keeper.get(TXT)
            other.clock.now += 10
            other.forge(record(mx="mx.mallory.example"))
            assert (await other.met()).reason == "never-validated"
            forged = await other.keeper.get(TXT)
            assert proven and forged
            await s.keeper.put(forged)
            await s.restart()
            assert (await s.decide()).outcome == "enforce"
            await other.resolver.learn(proven)
            decision = await other.decide()
            assert (decision.outcome, decision.policy and decision.policy.mx) == ("enforce", (MX,))

    asyncio.run(run())
