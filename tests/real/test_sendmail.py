"""Real Sendmail by the lines of docs/sendmail.md: 8.17 (Debian 12) and 8.18 (Debian 13)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smtp_sts.lab.mtas.page import block
from smtp_sts.lab.mtas.sendmail import PAGE, SUITES, WAIT_LINES

from .sendmail import Sendmail, world
from .world import SIGNED, SITES

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=sorted(SUITES, reverse=True), ids="sendmail-{}".format)
def sendmail(
    request: pytest.FixtureRequest, roots: Callable[[str], dict[str, Path]]
) -> Iterator[Sendmail]:
    with world(request.param, roots("sendmail")) as made:
        yield made


def taken(sendmail: Sendmail, recipient: str) -> bool:
    """Whether the MX host of the recipient's domain has taken the recipient's message."""
    host = SITES[recipient.partition("@")[2]].mx
    return any(recipient in event["recipients"] for event in sendmail.events_at(host, "DATA"))


def lookup(sendmail: Sendmail, domain: str) -> str:
    """What `/map sts` in Sendmail's test mode prints."""
    said = sendmail.in_root("sendmail-mta", "-bt", check=False, text=f"/map sts {domain}\n")
    return next(line for line in said.splitlines() if line.startswith("> map_lookup:"))


def test_the_version_is_the_one_meant(sendmail: Sendmail) -> None:
    said = sendmail.in_root("sendmail-mta", "-d0.13", "-bt", check=False)
    assert said.startswith(f"Version {sendmail.version}.")
    assert "_FFR_MTA_STS" in said


@pytest.mark.parametrize("domain", ["enforce.example", "wildcard.example"])
def test_mail_to_an_enforcing_domain_arrives_over_verified_tls(
    sendmail: Sendmail, domain: str
) -> None:
    (recipient,) = sendmail.send(domain)
    outcome = sendmail.outcome(recipient)
    assert outcome.status == "Sent", outcome.line
    assert f"relay={SITES[domain].mx}., " in outcome.tls
    assert "verify=OK" in outcome.tls
    assert taken(sendmail, recipient)


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        ("stripped.example", "other side does not support STARTTLS"),
        ("self-signed.example", "authentication failed"),
        ("expired.example", "authentication failed"),
    ],
)
def test_mallory_at_the_address_of_the_mx_host_gets_nothing(
    sendmail: Sendmail, domain: str, reason: str
) -> None:
    outcome = sendmail.attempt(domain)
    mallory = SITES[domain].mx
    assert outcome.status == "Deferred", outcome.line
    assert reason in outcome.line
    assert sendmail.events_at(mallory, "EHLO"), "the attack did not take place"
    assert not sendmail.events_at(mallory, "MAIL")
    assert not sendmail.events_at(mallory, "DATA")


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        ("wrong-name.example", "mx.wrong-name.example not listed in SANs"),
        ("outside.example", "mx.mallory.example not found in mx.outside.example"),
        ("deep.example", "mx.a.deep.example not found in .deep.example"),
    ],
)
def test_an_mx_host_by_a_name_that_is_not_allowed_gets_no_message(
    sendmail: Sendmail, domain: str, reason: str
) -> None:
    (recipient,) = sendmail.send(domain)
    outcome = sendmail.outcome(recipient)
    assert outcome.status == "Deferred", outcome.line
    assert any(f"{recipient}... {reason}" in line for line in sendmail.log)
    assert sendmail.events_at(SITES[domain].mx, "EHLO"), "the attack did not take place"
    assert not sendmail.events_at(SITES[domain].mx, "DATA")


def test_a_forged_mx_host_before_the_true_one_is_passed_over(sendmail: Sendmail) -> None:
    (recipient,) = sendmail.send("forged.example")
    outcome = sendmail.outcome(recipient)
    assert outcome.status == "Sent", outcome.line
    assert "relay=mx.forged.example. [" in outcome.line
    assert taken(sendmail, recipient)
    assert not sendmail.events_at("mx.mallory.example", "DATA")


def test_a_domain_that_breaks_its_policy_delays_no_other_mail_to_that_host(
    sendmail: Sendmail,
) -> None:
    for breaks in ("beside-outside.example", "beside-broken.example"):
        outcome = sendmail.attempt(breaks)
        assert outcome.status == "Deferred", outcome.line
    outcome = sendmail.attempt("beside-plain.example")
    assert outcome.status == "Sent", outcome.line


@pytest.mark.parametrize(
    "domain", ["testing.example", "cleartext.example", "none.example", "plain.example"]
)
def test_mail_without_an_enforced_policy_flows_as_before(sendmail: Sendmail, domain: str) -> None:
    before = len(sendmail.log)
    (recipient,) = sendmail.send(domain)
    outcome = sendmail.outcome(recipient)
    assert outcome.status == "Sent", outcome.line
    assert taken(sendmail, recipient)
    encrypted = any("STARTTLS=client" in line for line in sendmail.log[before:])
    assert encrypted is bool(SITES[domain].certificate)


def test_one_message_to_many_domains_goes_to_each_by_its_own_policy(sendmail: Sendmail) -> None:
    recipients = sendmail.send("enforce.example", "plain.example", "stripped.example")
    outcomes = [sendmail.outcome(recipient) for recipient in recipients]
    assert [o.status for o in outcomes] == ["Sent", "Sent", "Deferred"], outcomes


@pytest.mark.parametrize("other", ["also-plain.example", "beside-plain.example"])
def test_no_recipient_rides_on_the_connection_of_another_domain(
    sendmail: Sendmail, other: str
) -> None:
    # Both have the same MX host, whose certificate is bad; which one Sendmail takes first depends
    # on their names.
    protected, _ = sendmail.send("beside-broken.example", other)
    outcome = sendmail.outcome(protected)
    assert outcome.status == "Deferred", outcome.line
    assert not taken(sendmail, protected)


def test_dane_wins_where_sendmail_has_it(sendmail: Sendmail) -> None:
    good = sendmail.attempt(f"dane.{SIGNED}")
    wrong = sendmail.attempt(f"broken-dane.{SIGNED}")
    if sendmail.version == "8.17":  # the limit named in docs/sendmail.md
        assert (good.status, wrong.status) == ("Deferred", "Sent"), (good, wrong)
        return
    assert (good.status, wrong.status) == ("Sent", "Deferred"), (good, wrong)
    assert "verify=TRUSTED" in good.tls
    assert "verify=DANE_FAIL" in wrong.tls
    assert any("reject=403 4.7.0 authentication failure" in x for x in sendmail.log)
    assert not sendmail.events_at(f"mx.broken-dane.{SIGNED}", "DATA")


def test_the_test_mode_shows_the_reply(sendmail: Sendmail) -> None:
    verified = "returns secure match=mx.enforce.example servername=hostname (0)"
    assert lookup(sendmail, "enforce.example").endswith(verified)
    assert "no match" in lookup(sendmail, "plain.example")
    assert "no match" in lookup(sendmail, "testing.example")


def test_mail_goes_out_as_before_while_the_daemon_is_down(sendmail: Sendmail) -> None:
    sendmail.stop_daemon()
    try:
        for domain in ("waiting.example", "plain.example", "stripped.example"):
            outcome = sendmail.attempt(domain)
            assert outcome.status == "Sent", outcome.line
    finally:
        sendmail.start_daemon()
    assert sendmail.attempt("stripped.example").status == "Deferred"


def test_by_sendmails_own_default_mail_waits_while_the_daemon_is_down(sendmail: Sendmail) -> None:
    sendmail.configure(block(PAGE, WAIT_LINES))
    try:
        assert sendmail.attempt("enforce.example").status == "Sent"
        sendmail.stop_daemon()
        outcome = sendmail.attempt("plain.example")
        assert outcome.status == "Deferred", outcome.line
        assert "STS lookup temp fail" in outcome.line
    finally:
        sendmail.configure()
        sendmail.start_daemon()
