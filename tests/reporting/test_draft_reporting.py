"""Failures under policies of the first draft: who is told, within which size."""

from __future__ import annotations

import asyncio
from pathlib import Path

import dkim
import msgspec
import pytest
from click.testing import CliRunner

from smtp_sts.cli import main
from smtp_sts.policy import Constraint, Policy
from smtp_sts.reporting.compile import Sender
from smtp_sts.reporting.dkim import make_signer
from smtp_sts.reporting.draft00 import compile_draft_reports
from smtp_sts.reporting.matching import applied
from smtp_sts.resolver.decision import Decision, Draft, Outcome
from smtp_sts.store.outbox import Part, Planned, open_outbox
from smtp_sts.store.tallies import Tally, open_tallies
from smtp_sts.tlsrpt import (
    AppliedPolicy,
    Destination,
    Failure,
    PolicyResult,
    compose_draft,
    is_draft_policy,
    open_report,
    read_xml,
)
from smtp_sts.tlsrpt.draft00_mail import SIGNATURE

from .post_office import PostOffice

DAY = 16_891  # 2016-03-31
ALICE = Sender("Alice's Mail", "reports@alice.example")
TEXT = "v=STS1; to=true; mx=*.bob.example; a=webpki:https://bob.example/p; c=webpki; e=86400; rua="
FAILURES = (
    Failure("certificate-expired", 3, "192.0.2.1", "mx.bob.example", "mx", "192.0.2.2"),
    Failure("validation-failure", 1, failure_reason_code="mx-mismatch"),
)


def _result(rua: str, failures: tuple[Failure, ...] = FAILURES, to: str = "true") -> PolicyResult:
    text = f"{TEXT}{rua}".replace("to=true", f"to={to}")
    policy = AppliedPolicy("sts", "bob.example", (text,), ("*.bob.example",))
    return PolicyResult(policy, 10, sum(f.failed_session_count for f in failures), failures)


def _decision(outcome: Outcome, reason: str, constraint: Constraint = "webpki") -> Decision:
    return Decision(
        "bob.example",
        outcome,
        reason,
        policy=Policy("enforce", ("*.bob.example",), 86400, "STS1"),
        draft=Draft(f"{TEXT}mailto:r@bob.example", constraint, "dnssec", True, True),
    )


@pytest.mark.parametrize(
    ("decision", "kind"),
    [
        (_decision("enforce", "policy-found"), "sts"),
        (_decision("testing", "never-validated"), "sts"),
        (_decision("dane", "tlsa-required", "tlsa"), "sts"),
        (_decision("dane", "tlsa-usable"), "tlsa"),  # DANE went before it
        (_decision("no-policy", "overloaded"), "no-policy-found"),
    ],
)
def test_a_session_is_counted_under_the_policy_whose_word_it_was(
    decision: Decision, kind: str
) -> None:
    policy = applied("bob.example", decision)
    assert (policy.policy_type, policy.policy_domain) == (kind, "bob.example")
    assert is_draft_policy(policy) is (kind == "sts")
    assert policy.mx_host == (("*.bob.example",) if kind == "sts" else ())


def test_the_report_goes_where_the_policy_says() -> None:
    (mailing,) = compile_draft_reports(
        DAY, "bob.example", [_result("mailto:r@bob.example,mailto:s@carol.example!1m")], ALICE
    )
    assert mailing.destinations == (
        Destination("mailto", "r@bob.example"),
        Destination("mailto", "s@carol.example"),
    )
    (part,) = mailing.parts
    assert (part.domain, part.mx, part.enforced) == ("bob.example", ("*.bob.example",), True)
    assert [(f.failure, f.count) for f in part.failures] == [
        ("expired-certificate", 3), ("mx-mismatch", 1),
    ]  # fmt: skip
    assert part.contact == ALICE.contact
    assert read_xml(part.render()).oddities == ()
    assert mailing.left_out == ()


def test_the_same_counts_in_any_order_are_the_same_reports() -> None:
    results = [_result("mailto:r@bob.example"), _result("mailto:r@bob.example", to="false")]
    once = compile_draft_reports(DAY, "bob.example", results, ALICE)
    again = compile_draft_reports(DAY, "bob.example", results[::-1], ALICE)
    assert once == again
    assert len({part.report_id for mailing in once for part in mailing.parts}) == 2
    other = compile_draft_reports(DAY + 1, "bob.example", results, ALICE)
    assert other[0].parts[0].report_id != once[0].parts[0].report_id


def test_who_forged_a_policy_learns_nothing_of_another() -> None:
    results = [_result("mailto:r@bob.example"), _result("mailto:m@mallory.example", to="false")]
    mailings = compile_draft_reports(DAY, "bob.example", results, ALICE)
    told = {mailing.destinations[0].target: mailing.parts[0].enforced for mailing in mailings}
    assert told == {"r@bob.example": True, "m@mallory.example": False}


@pytest.mark.parametrize(
    "result",
    [
        PolicyResult(AppliedPolicy("sts", "bob.example", ("version: STSv1",)), 0, 4, FAILURES),
        PolicyResult(AppliedPolicy("no-policy-found", "bob.example"), 0, 4, FAILURES),
        _result("mailto:r@bob.example", ()),
        _result("mailto:r@bob.example", (Failure("sts-policy-fetch-error", 1),)),
    ],
)
def test_without_failures_under_a_policy_of_the_draft_nothing_goes(result: PolicyResult) -> None:
    assert compile_draft_reports(DAY, "bob.example", [result], ALICE) == []


@pytest.mark.parametrize(
    ("rua", "says"),
    [
        ("https://bob.example/reports", "no address"),
        ("mailto:r@bob.example!1k", "more than 1024 bytes"),
        ("mailto:-r@bob.example", "no mail address"),
        ("mailto:" + "r" * 2100, "too long"),
    ],
)
def test_what_cannot_go_is_named(rua: str, says: str) -> None:
    (mailing,) = compile_draft_reports(DAY, "bob.example", [_result(rua)], ALICE)
    assert mailing.destinations == ()
    assert any(says in reason for reason in mailing.left_out)


def test_every_addressee_gets_mails_of_the_size_it_takes() -> None:
    failures = tuple(
        Failure("certificate-expired", n + 1, "", f"mx{n * 7919 % 10007}.bob.example", "", "")
        for n in range(600)
    )
    rua = "mailto:a@bob.example!9k,mailto:b@bob.example,mailto:c@bob.example!1k"
    (mailing,) = compile_draft_reports(DAY, "bob.example", [_result(rua, failures)], ALICE)
    assert [to.target for to in mailing.destinations] == ["a@bob.example", "b@bob.example"]
    assert len(mailing.parts) > 1
    assert sum(part.failed for part in mailing.parts) == sum(range(1, 601))
    now = mailing.parts[0].end
    assert all(
        len(compose_draft(part, "a@bob.example", "1", now)) + SIGNATURE <= 9 * 1024
        for part in mailing.parts
    )
    assert any(reason.startswith("mailto:c@bob.example: ") for reason in mailing.left_out)


def test_a_policy_of_another_domain_is_reported_under_its_own() -> None:
    """The domain that a tally is kept under, and the policy domain, may differ."""
    result = _result("mailto:r@bob.example")
    other = msgspec.structs.replace(
        result, policy=msgspec.structs.replace(result.policy, policy_domain="carol.example")
    )
    (mailing,) = compile_draft_reports(DAY, "bob.example", [other], ALICE)
    assert mailing.destinations == ()  # its URL leads out of carol.example: no valid policy there
    assert "leads to bob.example" in mailing.left_out[0]


def test_each_part_goes_to_its_own_addressees(tmp_path: Path) -> None:
    outbox = open_outbox(f"sqlite:///{tmp_path}/s.db")
    try:
        outbox.plan(DAY, {"bob.example": 0.0})
        (pending,) = outbox.claim_reports(1.0, "me", 1)
        parts = [Part(f"{n}@alice.example", b"x") for n in (1, 2, 3)]
        to = [
            Planned("mailto:json@bob.example", "", parts=(1,)),
            Planned("mailto:xml@bob.example", "", parts=(2, 3)),
            Planned("mailto:all@bob.example", ""),
        ]
        assert outbox.make(pending, "me", parts, to, now=1.0, give_up_at=9.0)
        found = {(d.uri.partition("@")[0], d.part) for d in outbox.deliveries(DAY, now=1.0)}
        assert found == {
            ("mailto:json", 1), ("mailto:xml", 2), ("mailto:xml", 3),
            ("mailto:all", 1), ("mailto:all", 2), ("mailto:all", 3),
        }  # fmt: skip
    finally:
        outbox.close()


def test_the_preview_has_both_forms(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    tallies = open_tallies(url)
    tallies.add([Tally(DAY, "bob.example", "", _result("mailto:r@bob.example"))])
    tallies.close()
    config = tmp_path / "c.toml"
    config.write_text(
        f'[store]\nurl = "{url}"\n'
        '[tls_reports]\norganization = "Alice"\ncontact = "reports@alice.example"\n'
    )
    command = ["--config", str(config), "report", "preview", "bob.example", "--day", "2016-03-31"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0
    assert "bob.example: sts  10 good, 4 failed" in result.output
    assert "XML of the first draft" in result.output
    assert "mx-mismatch" in result.output


def _play(home: Path, rua: str, *, asks: str = "", limit: int = 0, failures: int = 2) -> PostOffice:
    """A day of failures under a policy of bob's, delivered."""
    many = tuple(
        Failure("certificate-expired", n + 1, "", f"mx{n * 7919 % 10007}.bob.example")
        for n in range(failures)
    )

    async def scene() -> PostOffice:
        async with PostOffice(home) as office:
            tallies = open_tallies(office.url)
            tallies.add([Tally(office.day, "bob.example", "", _result(rua, many))])
            tallies.close()
            if asks:
                office.ask("bob.example", asks)
            await office.while_delivering(office.settled)
            return office

    return asyncio.run(scene())


def test_a_draft_report_is_delivered_by_signed_mail_without_any_other_record(
    tmp_path: Path,
) -> None:
    office = _play(tmp_path, "mailto:r@bob.example,mailto:s@carol.example!1m")
    assert sorted(office.states()) == [
        ("bob.example", "mailto:r@bob.example", "delivered"),
        ("bob.example", "mailto:s@carol.example", "delivered"),
    ]
    for mail, content in zip(office.mta.mails, office.mta.contents(), strict=True):
        enclosed = open_report(content)
        assert enclosed.draft is not None
        assert enclosed.draft.failed == 3
        assert b"\r\nTLS-Required: No\r\n" in content  # section 4
        assert f"To: {mail.rcpt_tos[0]}".encode() in content
        key = make_signer("alice.example", "s1", str(tmp_path / "key")).record.encode()
        assert dkim.verify(content, dnsfunc=lambda *_, key=key, **__: key, tlsrpt=True)
    assert len({open_report(c).message_id for c in office.mta.contents()}) == 2


def test_who_asks_in_both_ways_gets_both_forms(tmp_path: Path) -> None:
    office = _play(tmp_path, "mailto:xml@bob.example", asks="mailto:json@bob.example")
    forms = {
        mail.rcpt_tos[0]: open_report(content).draft is not None
        for mail, content in zip(office.mta.mails, office.mta.contents(), strict=True)
    }
    assert forms == {"xml@bob.example": True, "json@bob.example": False}


def test_mails_are_within_the_size_with_their_signature(tmp_path: Path) -> None:
    office = _play(tmp_path, "mailto:r@bob.example!9k", failures=600)
    contents = office.mta.contents()
    assert len(contents) > 1
    assert max(map(len, contents)) <= 9 * 1024
    drafts = [open_report(content).draft for content in contents]
    assert sum(draft.failed for draft in drafts if draft) == sum(range(1, 601))


def test_a_size_that_no_report_can_keep_gets_nothing_and_says_so(tmp_path: Path) -> None:
    office = _play(tmp_path, "mailto:r@bob.example!1k")
    assert office.mta.mails == []
    (report,) = office.reports()
    assert report.state == "unwanted"
    assert "more than 1024 bytes" in report.why
