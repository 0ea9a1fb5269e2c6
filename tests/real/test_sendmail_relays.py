"""Sendmail where it sends to other hosts than those of MX records, by docs/sendmail.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smtp_sts.lab.mtas.page import block
from smtp_sts.lab.mtas.sendmail import PAGE, SUITES

from .sendmail import Sendmail, world

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=sorted(SUITES, reverse=True), ids="sendmail-{}".format)
def sendmail(
    request: pytest.FixtureRequest, roots: Callable[[str], dict[str, Path]]
) -> Iterator[Sendmail]:
    with world(request.param, roots("sendmail")) as made:
        yield made


@contextmanager
def behind(sendmail: Sendmail, smarthost: str) -> Iterator[None]:
    """Debian's configuration with a smarthost and what the page says of it."""
    mail = sendmail.root / "etc/mail"
    access = (mail / "access").read_text()
    entry = block(PAGE, "TLS_Srv:").replace("smarthost.example", smarthost)
    try:
        (mail / "access").write_text(access + entry)
        sendmail.in_root("sh", "-ec", "cd /etc/mail; makemap hash access <access")
        lines = f"define(`SMART_HOST', `[{smarthost}]')dnl\n" + block(
            PAGE, "define(`confCACERT_PATH"
        )
        sendmail.configure_by(lines)
        yield
    finally:
        (mail / "access").write_text(access)
        sendmail.in_root("sh", "-ec", "cd /etc/mail; makemap hash access <access")
        sendmail.configure()


@pytest.mark.parametrize("domain", ["outside.example", "stripped.example", "plain.example"])
def test_everything_goes_to_the_smarthost(sendmail: Sendmail, domain: str) -> None:
    with behind(sendmail, "mx.enforce.example"):
        (recipient,) = sendmail.send(domain)
        outcome = sendmail.outcome(recipient)
    assert outcome.status == "Sent", outcome.line
    assert "verify=OK" in outcome.tls
    taken = sendmail.events_at("mx.enforce.example", "DATA")
    assert any(recipient in event["recipients"] for event in taken)


@pytest.mark.parametrize(
    "smarthost",
    ["mx.stripped.example", "mx.self-signed.example", "mx.expired.example",
     "mx.wrong-name.example"],
)  # fmt: skip
def test_but_not_where_it_is_not_the_smarthost(sendmail: Sendmail, smarthost: str) -> None:
    with behind(sendmail, smarthost):
        outcome = sendmail.attempt("plain.example")
    assert outcome.status == "Deferred", outcome.line
    assert not sendmail.events_at(smarthost, "MAIL")


def test_a_domain_with_a_route_of_its_own_needs_a_rule_of_smtp_sts(sendmail: Sendmail) -> None:
    mail = sendmail.root / "etc/mail"
    (mail / "mailertable").write_text("waiting.example\tesmtp:[mx.plain.example]\n")
    sendmail.in_root("sh", "-ec", "cd /etc/mail; makemap hash mailertable <mailertable")
    settings = sendmail.home / "smtp-sts.toml"
    text = settings.read_text()
    rule = block(PAGE, "[overrides]").replace("routed.example", "waiting.example")
    sendmail.configure(before="FEATURE(`mailertable')dnl\n")
    try:
        assert sendmail.attempt("waiting.example").status == "Deferred"
        sendmail.stop_daemon()
        settings.write_text(text + rule)
        sendmail.start_daemon()
        (recipient,) = sendmail.send("waiting.example")
        assert sendmail.outcome(recipient).status == "Sent"
        taken = sendmail.events_at("mx.plain.example", "DATA")
        assert any(recipient in event["recipients"] for event in taken)
    finally:
        sendmail.stop_daemon()
        settings.write_text(text)
        sendmail.start_daemon()
        sendmail.configure()


def test_out_of_the_way_in_a_minute(sendmail: Sendmail) -> None:
    """What docs/operation.md says of a night in which mail has to go."""
    (recipient,) = sendmail.send("outside.example")
    assert sendmail.outcome(recipient).status == "Deferred"
    sendmail.configure_by("")
    try:
        sendmail.in_root("sendmail-mta", "-q", "-v", check=False)
        assert sendmail.outcome(recipient).status == "Sent"
    finally:
        sendmail.configure()
