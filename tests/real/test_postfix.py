"""Real Postfix, real DNS, real TLS: what an operator's mail does with smtp-sts beside it.

Each test is a claim of the product's first page, made of Postfix 3.7 (Debian 12), 3.10 (Debian 13)
and 3.11 or later (sid). "Mallory has not seen the message" means: not even its sender was told to
her host.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smtp_sts.lab.machine import NEWEST
from smtp_sts.lab.mtas.postfix import QUEUE, SUITES
from smtp_sts.lab.python import OURSELVES

from .postfix import INET, Postfix, world
from .world import SIGNED, SITES

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=sorted(SUITES, reverse=True), ids="postfix-{}".format)
def postfix(
    request: pytest.FixtureRequest, roots: Callable[[str], dict[str, Path]]
) -> Iterator[Postfix]:
    with world(request.param, roots("")) as made:
        yield made


def taken(postfix: Postfix, recipient: str) -> bool:
    """Whether the MX host of the recipient's domain has taken the recipient's message."""
    host = SITES[recipient.partition("@")[2]].mx
    return any(recipient in event["recipients"] for event in postfix.events_at(host, "DATA"))


def test_the_version_is_the_one_meant(postfix: Postfix) -> None:
    assert _meant(postfix, postfix.in_root("postconf", "-h", "mail_version"))


def _meant(postfix: Postfix, told: str) -> bool:
    """Whether a version is the one meant; of Debian's newest, at least that."""
    wanted = [int(part) for part in postfix.version.split(".")]
    have = [int(part) for part in re.findall(r"\d+", told)[:2]]
    return have >= wanted if SUITES[postfix.version] == NEWEST else have == wanted


@pytest.mark.parametrize("domain", ["enforce.example", "wildcard.example", "socket.example"])
def test_mail_to_an_enforcing_domain_arrives_over_verified_tls(
    postfix: Postfix, domain: str
) -> None:
    recipient = postfix.send(domain)
    outcome = postfix.outcome(recipient)
    assert outcome.status == "sent", outcome.line
    assert f": Verified TLS connection established to {SITES[domain].mx}[" in outcome.tls
    assert taken(postfix, recipient)


@pytest.mark.parametrize(
    "domain", ["stripped.example", "wrong-name.example", "self-signed.example", "expired.example"]
)
def test_mallory_at_the_address_of_the_mx_host_gets_nothing(postfix: Postfix, domain: str) -> None:
    recipient = postfix.send(domain)
    outcome = postfix.outcome(recipient)
    mallory = SITES[domain].mx
    assert outcome.status == "deferred", outcome.line
    assert outcome.dsn.startswith("4.7."), outcome.line
    assert postfix.events_at(mallory, "EHLO"), "the attack did not take place"
    assert not postfix.events_at(mallory, "MAIL")
    assert not postfix.events_at(mallory, "DATA")


def test_an_mx_host_outside_the_policy_gets_nothing(postfix: Postfix) -> None:
    recipient = postfix.send("outside.example")
    outcome = postfix.outcome(recipient)
    assert outcome.status == "deferred", outcome.line
    if postfix.version == "3.7":  # connects, and finds no name in the certificate that matches
        assert outcome.dsn == "4.7.5", outcome.line
    else:  # does not even connect: the host is struck off, and then none is left
        assert outcome.dsn == "4.3.0", outcome.line
        struck_off = "MX name 'mx.mallory.example' does not match STS MX pattern"
        assert any(struck_off in line for line in postfix.maillog())
        assert not postfix.events_at("mx.mallory.example")
    assert not postfix.events_at("mx.mallory.example", "MAIL")
    assert not postfix.events_at("mx.mallory.example", "DATA")


def test_a_forged_mx_host_before_the_true_one_is_passed_over(postfix: Postfix) -> None:
    recipient = postfix.send("forged.example")
    outcome = postfix.outcome(recipient)
    assert outcome.status == "sent", outcome.line
    assert ": Verified TLS connection established to mx.forged.example[" in outcome.tls
    assert taken(postfix, recipient)
    assert not postfix.events_at("mx.mallory.example", "MAIL")


def test_a_wildcard_covers_one_label_where_postfix_can_tell(postfix: Postfix) -> None:
    outcome = postfix.outcome(postfix.send("deep.example"))
    if postfix.version == "3.7":  # the limit named in docs/postfix.md
        assert outcome.status == "sent", outcome.line
    else:  # RFC 8461 section 4.1: the wildcard stands for exactly one label
        assert outcome.status == "deferred", outcome.line
        assert not postfix.events_at("mx.a.deep.example", "MAIL")


@pytest.mark.parametrize(
    "domain", ["testing.example", "cleartext.example", "none.example", "plain.example"]
)
def test_mail_without_an_enforced_policy_flows_as_before(postfix: Postfix, domain: str) -> None:
    recipient = postfix.send(domain)
    outcome = postfix.outcome(recipient)
    assert outcome.status == "sent", outcome.line
    assert taken(postfix, recipient)
    encrypted = bool(SITES[domain].certificate)
    assert bool(outcome.tls) is encrypted, outcome


def test_mail_waits_while_the_daemon_is_down_and_leaves_verified_afterwards(
    postfix: Postfix,
) -> None:
    postfix.stop_daemon()
    try:
        recipient = postfix.send("waiting.example")
        outcome = postfix.outcome(recipient)
        assert outcome.status == "deferred", outcome.line
        assert outcome.dsn == "4.7.5", outcome.line
        assert not taken(postfix, recipient)
    finally:
        postfix.start_daemon()
    outcome = postfix.outcome(recipient, "sent")
    assert ": Verified TLS connection established to mx.waiting.example[" in outcome.tls
    assert taken(postfix, recipient)


def test_law_1_a_blocked_policy_host_and_a_killed_daemon_weaken_nothing(postfix: Postfix) -> None:
    # Law 1: without the policy kept from before, this mail would now go to mallory in clear text.
    assert postfix.lookup("blocked.example", f"{INET}:postfix").startswith("secure ")
    with postfix.policy_host_blocked():
        postfix.kill_daemon()
        postfix.start_daemon()
        outcome = postfix.outcome(postfix.send("blocked.example"))
    assert outcome.status == "deferred", outcome.line
    assert outcome.dsn == "4.7.4", outcome.line
    assert not postfix.events_at("mx.blocked.example", "MAIL")


def test_law_3_dane_goes_before_a_policy(postfix: Postfix) -> None:
    domains = [f"dane.{SIGNED}", f"broken-dane.{SIGNED}"]
    for domain in domains:
        assert postfix.lookup(domain, f"{INET}:postfix-dane") == "dane-only"
        assert postfix.lookup(domain, f"{INET}:QUERY") == "dane-only"
        assert postfix.lookup(domain, f"{INET}:postfix").startswith("secure match=")
    good, broken = map(postfix.outcome, map(postfix.send, domains))
    # A certificate of no CA, which the TLSA record names; and one of a CA, which it does not.
    assert good.status == "sent", good.line
    assert ": Verified TLS connection established to " in good.tls
    assert (broken.status, broken.dsn) == ("deferred", "4.7.5"), broken.line
    assert not postfix.events_at(SITES[domains[1]].mx, "MAIL")


@pytest.mark.parametrize("domain", [f"dane-alone.{SIGNED}", f"dane-bogus.{SIGNED}"])
def test_law_4_a_postfix_that_was_not_told_of_dnssec_sends_to_domains_with_dane(
    postfix: Postfix, domain: str
) -> None:
    recipient = postfix.send(domain)
    outcome = postfix.outcome(recipient)
    assert outcome.status == "sent", outcome.line
    assert taken(postfix, recipient)
    assert postfix.lookup(domain, f"{INET}:postfix") == ""


def test_and_enforces_the_policies_that_they_have(postfix: Postfix) -> None:
    good, forged = (
        postfix.outcome(postfix.send(f"{name}.{SIGNED}")) for name in ("dane-both", "dane-forged")
    )
    assert good.status == "sent", good.line
    assert ": Verified TLS connection established to " in good.tls
    assert (forged.status, forged.dsn) == ("deferred", "4.7.5"), forged.line
    assert not postfix.events_at(f"mx.dane-forged.{SIGNED}", "MAIL")


def test_a_postfix_that_was_not_told_of_dnssec_cannot_do_what_it_asks_for(
    postfix: Postfix,
) -> None:
    """Why DANE is asked for, and not said to everybody: docs/postfix.md warns of this line."""
    outcome = postfix.outcome(postfix.send(f"dane-asked.{SIGNED}"))
    assert (outcome.status, outcome.dsn) == ("deferred", "4.7.5"), outcome.line
    assert any("dnssec lookups disabled" in line for line in postfix.maillog())


@pytest.mark.parametrize("kind", ["inet", "unix"])
def test_postmap_shows_the_reply(postfix: Postfix, kind: str) -> None:
    socketmap = INET if kind == "inet" else f"socketmap:unix:/{QUEUE}/smtp-sts/socketmap"
    verified = "secure match=mx.enforce.example servername=hostname"
    assert postfix.lookup("enforce.example", f"{socketmap}:postfix") == verified
    assert postfix.lookup("plain.example", f"{socketmap}:postfix") == ""
    assert postfix.lookup("testing.example", f"{socketmap}:postfix") == ""
    with_report = postfix.lookup("enforce.example", f"{socketmap}:postfix-tlsrpt")
    assert with_report.startswith(f"{verified} policy_type=sts policy_domain=enforce.example ")
    assert "{ policy_string = mode: enforce }" in with_report


def test_config_check_and_the_log_say_where_main_cf_does_not_fit(
    postfix: Postfix, tmp_path: Path
) -> None:
    """With the real postconf, which reads a main.cf as Debian's, and one line."""
    at = f"unix:{tmp_path}/socketmap"
    other = postfix.root / "etc/postfix-untold"
    other.mkdir()
    shutil.copy(postfix.root / "etc/postfix/master.cf", other)
    lines = "compatibility_level = 3.6\nsmtp_tls_CApath = /etc/ssl/certs\n"
    (other / "main.cf").write_text(
        f"{lines}smtp_tls_policy_maps = socketmap:{at}:{postfix.profile}\n"
    )
    program = tmp_path / "postconf"
    program.write_text(
        f'#!/bin/sh\nexec chroot {postfix.root} /usr/sbin/postconf -c /etc/postfix-untold "$@"\n'
    )
    program.chmod(0o755)
    config = tmp_path / "smtp-sts.toml"
    config.write_text(
        f'[policy]\nlisten = "{at}"\n[dns]\nnameservers = ["127.0.0.1"]\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/store.db"\n[control]\nsocket = ""\n'
    )
    command = [*OURSELVES, "--config", str(config)]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "config", "check"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said = "smtp_dns_support_level is not set: mail to domains with DANE waits"
    told = re.search(r"^Postfix: +(\S+)", done.stdout, re.MULTILINE)
    assert told is not None
    assert _meant(postfix, told[1])
    assert f"asks by {postfix.profile}\n" in done.stdout
    assert said in done.stdout
    with (tmp_path / "log").open("w") as log:
        daemon = subprocess.Popen([*command, "serve"], env=environment, stderr=log)
    try:
        until = time.monotonic() + 15
        while said not in (tmp_path / "log").read_text():
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.05)
    finally:
        daemon.terminate()
        daemon.wait(10)
