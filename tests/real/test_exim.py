"""Real Exim by the lines of docs/exim.md: Exim 4.96 (Debian 12) and 4.98 (Debian 13).

"Mallory has not seen the message" means: not even its sender was told to her host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smtp_sts.lab.mtas.exim import SUITES

from .exim import Exim, world
from .world import SIGNED, SITES

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=sorted(SUITES, reverse=True), ids="exim-{}".format)
def exim(request: pytest.FixtureRequest, roots: Callable[[str], dict[str, Path]]) -> Iterator[Exim]:
    with world(request.param, roots("exim")) as made:
        yield made


def taken(exim: Exim, recipient: str) -> bool:
    """Whether the MX host of the recipient's domain has taken the recipient's message."""
    host = SITES[recipient.partition("@")[2]].mx
    return any(recipient in event["recipients"] for event in exim.events_at(host, "DATA"))


def test_the_version_is_the_one_meant(exim: Exim) -> None:
    assert exim.in_root("exim4", "-bV").startswith(f"Exim version {exim.version}")


@pytest.mark.parametrize("domain", ["enforce.example", "wildcard.example"])
def test_mail_to_an_enforcing_domain_arrives_over_verified_tls(exim: Exim, domain: str) -> None:
    (recipient,) = exim.send(domain)
    outcome = exim.outcome(recipient)
    assert outcome.status == "sent", outcome.line
    assert " R=smtp_sts T=remote_smtp_sts " in outcome.line
    assert outcome.verified == "yes", outcome.line
    assert taken(exim, recipient)


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        ("stripped.example", "a TLS session is required, but the server did not offer TLS"),
        ("wrong-name.example", "certificate verification failed"),
        ("self-signed.example", "certificate verification failed"),
        ("expired.example", "certificate verification failed"),
        (f"broken-dane.{SIGNED}", "certificate verification failed"),  # a good one, but not TLSA's
    ],
)
def test_mallory_at_the_address_of_the_mx_host_gets_nothing(
    exim: Exim, domain: str, reason: str
) -> None:
    outcome = exim.attempt(domain)
    mallory = SITES[domain].mx
    assert outcome.status == "deferred", outcome.line
    assert reason in outcome.line
    assert exim.events_at(mallory, "EHLO"), "the attack did not take place"
    assert not exim.events_at(mallory, "MAIL")
    assert not exim.events_at(mallory, "DATA")


@pytest.mark.parametrize("domain", ["outside.example", "deep.example"])
def test_an_mx_host_outside_the_policy_is_not_even_connected_to(exim: Exim, domain: str) -> None:
    outcome = exim.attempt(domain)
    assert outcome.status == "deferred", outcome.line
    assert "all MXs point to missing A records, and defer requested" in outcome.line
    assert not exim.events_at(SITES[domain].mx)


def test_a_forged_mx_host_before_the_true_one_is_passed_over(exim: Exim) -> None:
    (recipient,) = exim.send("forged.example")
    outcome = exim.outcome(recipient)
    assert outcome.status == "sent", outcome.line
    assert " H=mx.forged.example " in outcome.line
    assert taken(exim, recipient)
    assert not exim.events_at("mx.mallory.example")


def test_a_message_that_waits_does_not_leave_by_a_connection_for_another_domain(
    exim: Exim,
) -> None:
    # Mallory's host is no MX host of lured.example's policy, and the only one of her own domain's.
    (waiting,) = exim.send("lured.example")
    assert exim.outcome(waiting).status == "deferred"
    (lure,) = exim.send("lure.example")
    assert exim.outcome(lure).status == "sent"
    exim.in_root("exim4", "-qff")
    assert exim.outcome(waiting).status == "deferred"
    seen = exim.events_at("mx.lure.example", "DATA")
    assert [event["recipients"] for event in seen] == [[lure]]


def test_law_4_a_domain_that_breaks_its_policy_delays_no_other_mail_to_that_host(
    exim: Exim,
) -> None:
    for breaks in ("beside-outside.example", "beside-broken.example"):
        outcome = exim.attempt(breaks)
        assert outcome.status == "deferred", outcome.line
    assert "certificate verification failed" in outcome.line
    outcome = exim.attempt("beside-plain.example")
    assert outcome.status == "sent", outcome.line


@pytest.mark.parametrize(
    "domain", ["testing.example", "cleartext.example", "none.example", "plain.example"]
)
def test_mail_without_an_enforced_policy_flows_as_before(exim: Exim, domain: str) -> None:
    (recipient,) = exim.send(domain)
    outcome = exim.outcome(recipient)
    assert outcome.status == "sent", outcome.line
    assert " R=dnslookup T=remote_smtp " in outcome.line
    assert taken(exim, recipient)
    assert (" X=TLS" in outcome.line) is bool(SITES[domain].certificate)


def test_one_message_to_many_domains_goes_to_each_by_its_own_policy(exim: Exim) -> None:
    domains = ["enforce.example", "plain.example", "stripped.example", "wildcard.example"]
    recipients = exim.send(*domains)
    outcomes = [exim.outcome(recipient) for recipient in recipients]
    assert [o.status for o in outcomes] == ["sent", "sent", "deferred", "sent"], outcomes
    assert [o.verified for o in outcomes] == ["yes", "", "", "yes"], outcomes


def test_dane_wins_where_a_certificate_is_good_by_tlsa_alone(exim: Exim) -> None:
    outcome = exim.attempt(f"dane.{SIGNED}")
    assert outcome.status == "sent", outcome.line
    assert outcome.verified == "dane", outcome.line


def test_the_verification_of_an_address_is_as_before(exim: Exim) -> None:
    said = exim.in_root("exim4", "-bvs", "carol@outside.example", check=False)
    assert said.strip() == "carol@outside.example verified"


def test_mail_goes_out_as_before_while_the_daemon_is_down(exim: Exim) -> None:
    exim.stop_daemon()
    try:
        for domain in ("waiting.example", "plain.example"):
            outcome = exim.attempt(domain)
            assert outcome.status == "sent", outcome.line
            assert " R=dnslookup T=remote_smtp " in outcome.line
    finally:
        exim.start_daemon()
    assert exim.attempt("waiting.example").verified == "yes"


def test_without_a_word_for_no_answer_mail_waits_while_the_daemon_is_down(exim: Exim) -> None:
    router = exim.root / "etc/exim4/conf.d/router/190_smtp-sts"
    text = router.read_text()
    assert text.count("(?:|none;") == 1
    exim.stop_daemon()
    try:
        router.write_text(text.replace("(?:|none;", "(?:none;"))
        exim.in_root("update-exim4.conf")
        outcome = exim.attempt("plain.example")
        assert outcome.status == "deferred", outcome.line
    finally:
        router.write_text(text)
        exim.in_root("update-exim4.conf")
        exim.start_daemon()


def test_nothing_went_to_the_panic_log_but_what_was_meant(exim: Exim) -> None:
    panic = exim.root / "var/log/exim4/paniclog"
    lines = panic.read_text().splitlines() if panic.exists() else []
    assert not lines, lines
