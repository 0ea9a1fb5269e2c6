"""Exim by the lines of docs/exim.md in each of Debian's configurations, and at its edges.

Debian's types (internet, smarthost, satellite, local), split and unsplit; relay domains; local
settings; private addresses; a domain whose best MX host is this machine; callouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from smtp_sts.lab.mtas.exim import PAGE, SUITES
from smtp_sts.lab.mtas.page import block

from .exim import Exim, world
from .world import ALICE, SITES

pytestmark = pytest.mark.real

SPLIT = pytest.mark.parametrize("split", ["true", "false"], ids=["split", "unsplit"])
#: Where Debian's page says that local macros go.
LOCAL_MACROS = {"true": "conf.d/main/000_localmacros", "false": "exim4.conf.localmacros"}
#: alice's smarthost: one that takes mail for everybody.
SMARTHOST = "mx.enforce.example"


@pytest.fixture(scope="module", params=sorted(SUITES, reverse=True), ids="exim-{}".format)
def exim(request: pytest.FixtureRequest, roots: Callable[[str], dict[str, Path]]) -> Iterator[Exim]:
    with world(request.param, roots("exim")) as made:
        yield made


@contextmanager
def configured(
    exim: Exim, split: str, macros: str = "", /, **settings: str
) -> Iterator[Mapping[str, str]]:
    """Debian's configuration with other settings and local macros, and the page's lines."""
    etc = exim.root / "etc/exim4"
    template = (etc / "exim4.conf.template").read_text()
    local = etc / LOCAL_MACROS[split]
    try:
        local.write_text(macros)
        exim.configure(naked=False, dc_use_split_config=split, **settings)
        yield settings
    finally:
        local.unlink()
        (etc / "exim4.conf.template").write_text(template)
        exim.configure()


def seen(exim: Exim, domain: str, host: str = "") -> tuple[str, str, bool]:
    """What became of one message: status, router, and whether the host has taken it."""
    (recipient,) = exim.send(domain)
    outcome = exim.outcome(recipient)
    router = outcome.line.partition(" R=")[2].partition(" ")[0]
    events = exim.events_at(host or SITES[domain].mx, "DATA")
    return outcome.status, router, any(recipient in event["recipients"] for event in events)


@SPLIT
def test_a_server_on_the_internet_asks_smtp_sts_first(exim: Exim, split: str) -> None:
    with configured(exim, split, dc_relay_domains="waiting.example:plain.example:outside.example"):
        assert seen(exim, "enforce.example") == ("sent", "smtp_sts", True)
        assert seen(exim, "outside.example") == ("deferred", "smtp_sts", False)
        assert seen(exim, "testing.example") == ("sent", "dnslookup", True)
        # A domain that this server is a backup MX for is sent to by its policy, too.
        assert seen(exim, "waiting.example") == ("sent", "smtp_sts", True)
        assert seen(exim, "plain.example") == ("sent", "dnslookup_relay_to_domains", True)


@SPLIT
@pytest.mark.parametrize("kind", ["smarthost", "satellite"])
def test_a_server_behind_a_smarthost_sends_everything_there(
    exim: Exim, split: str, kind: str
) -> None:
    settings = {"dc_eximconfig_configtype": kind, "dc_smarthost": SMARTHOST,
                "dc_readhost": "alice.example"}  # fmt: skip
    with configured(exim, split, **settings):
        for domain in ("enforce.example", "plain.example", "outside.example"):
            assert seen(exim, domain, SMARTHOST) == ("sent", "smarthost", True)


@SPLIT
@pytest.mark.parametrize(
    ("smarthost", "status"),
    [(SMARTHOST, "sent"), ("mx.stripped.example", "deferred"),
     ("mx.self-signed.example", "deferred"), ("mx.wrong-name.example", "deferred")],
)  # fmt: skip
def test_the_way_to_the_smarthost_is_protected_by_the_lines_of_the_page(
    exim: Exim, split: str, smarthost: str, status: str
) -> None:
    settings = {"dc_eximconfig_configtype": "satellite", "dc_smarthost": smarthost,
                "dc_readhost": "alice.example"}  # fmt: skip
    lines = block(PAGE, "REMOTE_SMTP_SMARTHOST_")
    with configured(exim, split, lines, **settings):
        (recipient,) = exim.send("plain.example")
        outcome = exim.outcome(recipient)
        assert outcome.status == status, outcome.line
        assert " R=smarthost " in outcome.line
        if status == "sent":
            assert outcome.verified == "yes", outcome.line
        elif smarthost != SMARTHOST:
            assert not exim.events_at(smarthost, "MAIL")


@SPLIT
def test_a_server_that_sends_to_nobody_still_sends_to_nobody(exim: Exim, split: str) -> None:
    with configured(exim, split, dc_eximconfig_configtype="local"):
        assert seen(exim, "enforce.example")[::2] == ("failed", False)


def test_a_domain_with_a_route_of_its_own_goes_there(exim: Exim) -> None:
    routes = exim.root / "etc/exim4/hubbed_hosts"
    routes.write_text("outside.example: mx.plain.example\n")
    try:
        assert seen(exim, "outside.example", "mx.plain.example") == ("sent", "hubbed_hosts", True)
    finally:
        routes.unlink()


@SPLIT
@pytest.mark.parametrize("macro", ["HOSTS_REQUIRE_TLS = no.example", "HOSTS_AVOID_TLS = *"])
def test_local_settings_of_remote_smtp_neither_break_nor_open_the_transport(
    exim: Exim, split: str, macro: str
) -> None:
    with configured(exim, split, f"REMOTE_SMTP_{macro}\n"):
        assert seen(exim, "enforce.example") == ("sent", "smtp_sts", True)
        assert seen(exim, "stripped.example") == ("deferred", "smtp_sts", False)
        assert seen(exim, "plain.example") == ("sent", "dnslookup", True)


def test_an_mx_host_at_a_private_address_is_not_sent_to(exim: Exim) -> None:
    assert seen(exim, "private.example") == ("deferred", "smtp_sts", False)
    assert not exim.events_at("mx.private.example")


@SPLIT
def test_but_by_the_backup_mx_of_its_domain(exim: Exim, split: str) -> None:
    with configured(exim, split, dc_relay_domains="*.other.example:private.example"):
        assert seen(exim, "private.example") == ("sent", "smtp_sts", True)
        assert seen(exim, "outside.example") == ("deferred", "smtp_sts", False)


@SPLIT
@pytest.mark.parametrize("others", ["<; 192.0.2.0/24 ; ::1", "192.0.2.0/24 : ::::1"])
def test_the_addresses_that_are_ignored_here_are_ignored(
    exim: Exim, split: str, others: str
) -> None:
    with configured(exim, split, f"ROUTER_DNSLOOKUP_IGNORE_TARGET_HOSTS = {others}\n"):
        assert seen(exim, "enforce.example") == ("deferred", "smtp_sts", False)
        assert seen(exim, "private.example") == ("sent", "smtp_sts", True)


@pytest.mark.parametrize("domain", ["myself.example", "myself-forged.example"])
def test_mail_to_a_domain_whose_best_mx_host_is_this_machine_waits(exim: Exim, domain: str) -> None:
    with configured(exim, "true", dc_local_interfaces=f"127.0.0.1 ; {ALICE}"):
        (recipient,) = exim.send(domain)
        outcome = exim.outcome(recipient)
    assert outcome.status == "deferred", outcome.line
    assert "lowest numbered MX record points to local host" in outcome.line
    assert not exim.events_at(f"mx.{domain}")


def test_the_certificate_is_that_of_the_mx_host_not_of_what_it_is_an_alias_of(exim: Exim) -> None:
    assert seen(exim, "alias.example", "mx.enforce.example") == ("deferred", "smtp_sts", False)


def session(exim: Exim, how: str, *lines: str) -> list[str]:
    """What Exim says to a client of the Internet that sends these lines; `how` is its option."""
    text = "".join(f"{line}\n" for line in ("EHLO x.example", *lines, "QUIT"))
    said = exim.in_root("exim4", *how.split(), text=text, check=False)
    return [line[:3] for line in said.splitlines() if line[:1].isdigit() and line[3:4] == " "]


RELAYED = ("enforce.example", "stripped.example", "outside.example", "plain.example")


@SPLIT
def test_callouts_go_by_the_policy(exim: Exim, split: str) -> None:
    callouts = exim.root / "etc/exim4/local_rcpt_callout"
    with configured(exim, split, dc_relay_domains=":".join(RELAYED)):
        callouts.write_text("".join(f"*@{domain}\n" for domain in RELAYED))
        # What Exim remembers of callouts, it does not ask for again.
        for remembered in (exim.root / "var/spool/exim4/db").glob("callout*"):
            remembered.unlink()
        try:
            before = {domain: exim.events_at(SITES[domain].mx, "MAIL") for domain in RELAYED}
            said = [
                session(exim, "-bhc 203.0.113.5", "MAIL FROM:<>", f"RCPT TO:<carol@{domain}>")[-2]
                for domain in RELAYED
            ]
            assert said == ["250", "451", "451", "250"]
            new = {d: exim.events_at(SITES[d].mx, "MAIL")[len(before[d]) :] for d in RELAYED}
            assert [len(new[domain]) for domain in RELAYED] == [1, 0, 0, 1]
            assert new["enforce.example"][0]["tls"]
        finally:
            callouts.unlink()


@SPLIT
def test_law_1_so_do_deliveries_while_a_message_comes_in(exim: Exim, split: str) -> None:
    rules = exim.root / "etc/exim4/rcpt_rules"
    rules.write_text("warn control = cutthrough_delivery\n")
    macros = "CHECK_RCPT_LOCAL_ACL_FILE = /etc/exim4/rcpt_rules\n"
    with configured(exim, split, macros, dc_relay_domains=":".join(RELAYED)):
        before = {domain: exim.events_at(SITES[domain].mx, "DATA") for domain in RELAYED}
        for domain in RELAYED:
            letter = ("DATA", "Subject: hello", "", "hello", ".")
            to = f"RCPT TO:<carol@{domain}>"
            session(exim, "-odq -oMa 203.0.113.5 -bs", "MAIL FROM:<a@x.example>", to, *letter)
        new = {d: exim.events_at(SITES[d].mx, "DATA")[len(before[d]) :] for d in RELAYED}
        assert [len(new[domain]) for domain in RELAYED] == [1, 0, 0, 1]
        assert new["enforce.example"][0]["tls"]


def test_out_of_the_way_in_a_minute(exim: Exim) -> None:
    """What docs/operation.md says of a night in which mail has to go."""
    router = exim.root / "etc/exim4/conf.d/router/190_smtp-sts"
    (recipient,) = exim.send("outside.example")
    assert exim.outcome(recipient).status == "deferred"
    text = router.read_text()
    router.unlink()
    try:
        exim.in_root("update-exim4.conf")
        exim.in_root("exim4", "-qff")
        outcome = exim.outcome(recipient)
        assert outcome.status == "sent", outcome.line
        assert " R=dnslookup " in outcome.line
    finally:
        router.write_text(text)
        exim.in_root("update-exim4.conf")
