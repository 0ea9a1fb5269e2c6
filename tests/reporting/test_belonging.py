"""Whose session a log tells of, and what of it strangers are told (RFC 8460 sections 1.1 and 8)."""

from __future__ import annotations

import asyncio
import ipaddress
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.lab.names import Names
from smtp_sts.net.addresses import is_public
from smtp_sts.net.dns import Dns
from smtp_sts.policy import Policy
from smtp_sts.reporting.compile import Sender, compile_reports
from smtp_sts.reporting.exim_log import EximLog
from smtp_sts.reporting.lines import Clock
from smtp_sts.reporting.mx_names import MxOf
from smtp_sts.reporting.outcome import Outcome
from smtp_sts.reporting.postfix_log import PostfixLog
from smtp_sts.reporting.privacy import LEFT_OUT, public_address, public_name, public_text
from smtp_sts.resolver.decision import Decision
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult

NOW = 1_795_000_000.0
SENDER = Sender("Alice's Mail", "tlsrpt@alice.example")
POLICY = Policy("enforce", ("*.mail.example",), 86400)
ENFORCED = Decision("bob.example", "enforce", "policy-found", policy=POLICY)


def postfix(host: str, ip: str, port: int = 25) -> list[Outcome]:
    head = "2026-11-18T10:00:0{}.000000+00:00 alice postfix/smtp[7]: "
    lines = [
        head.format(1) + f"Trusted TLS connection established to {host}[{ip}]:{port}: TLSv1.3",
        head.format(2) + f"4Ab: to=<bob@bob.example>, relay={host}[{ip}]:{port}, delay=1, "
        "delays=0/0/1/0, dsn=2.0.0, status=sent (250 taken)",
    ]
    found: list[Outcome] = []
    log = PostfixLog(found.append, Clock(NOW, UTC))
    for line in lines:
        log.line(line.encode())
    log.finish()
    return found


def exim(host: str, ip: str, port: int = 25) -> list[Outcome]:
    found: list[Outcome] = []
    log = EximLog(found.append, Clock(NOW, UTC))
    log.line(
        f"2026-11-18 10:00:01 1vL2Zz-000000001aB-2xYz => bob@bob.example R=smarthost "
        f"T=remote_smtp_smarthost H={host} [{ip}]{'' if port == 25 else f':{port}'} "
        'X=TLS1.3:ECDHE_X25519__ECDSA_SECP256R1_SHA256__AES_256_GCM:256 CV=yes C="250 OK"'.encode()
    )
    return found


@pytest.mark.parametrize("source", [postfix, exim])
@pytest.mark.parametrize(
    ("host", "ip", "decision", "whose"),
    [
        ("mx.bob.example", "192.0.2.1", None, "theirs"),
        ("real.other.example", "192.0.2.1", None, "theirs"),  # where the MX host's alias leads
        ("mx1.mail.example", "192.0.2.9", ENFORCED, "theirs"),  # the policy names it
        ("smarthost.corp.example", "10.0.0.5", None, "relayed"),
        ("smarthost.corp.example", "10.0.0.5", ENFORCED, "relayed"),
    ],
)
def test_a_session_is_the_recipients_only_at_one_of_its_mx_hosts(
    source: type, host: str, ip: str, decision: Decision | None, whose: str
) -> None:
    (outcome,) = source(host, ip)
    assert asyncio.run(told(outcome, decision)) == whose


def test_a_session_at_another_port_is_a_relays() -> None:
    (outcome,) = postfix("mx.bob.example", "192.0.2.1", 587)
    assert asyncio.run(told(outcome, None)) == "relayed"


def test_where_the_dns_is_silent_nobody_is_told() -> None:
    (outcome,) = postfix("mx.bob.example", "192.0.2.1")
    assert asyncio.run(told(outcome, None, silent=True)) == "unknown"


async def told(outcome: Outcome, decision: Decision | None, *, silent: bool = False) -> str:
    names = Names()
    names.put("bob.example", "MX", "10 mx.bob.example.")
    names.put("mx.bob.example", "A", "192.0.2.1")
    if silent:
        names.spoil("bob.example", "servfail")
    await names.start()
    try:
        mx = MxOf(Dns([names.address], timeout=0.5))
        found = await mx.whose(outcome, decision)
        asked = names.queries.total()
        assert await mx.whose(outcome, decision) == found
        assert names.queries.total() == asked  # once
        return found
    finally:
        await names.close()


ADDRESSES = st.one_of(
    st.sampled_from([
        "10.0.0.5", "172.16.9.9", "192.168.1.1", "100.64.3.2", "127.0.0.1", "169.254.1.1",
        "fd00::5", "fe80::1", "::1", "::ffff:10.0.0.5", "::", "0.0.0.0",
    ]),
    st.ip_addresses().map(str),
)  # fmt: skip
NAMES = st.sampled_from([
    "smarthost", "relay.corp", "mx.intranet", "a.b.local", "x.home.arpa", "localhost",
    "host.localdomain", "mail.lan", "mx.bob.example",
])  # fmt: skip
TEXTS = st.tuples(NAMES, ADDRESSES).map(lambda both: f"host {both[0]}[{both[1]}]:25 says no")


@given(
    st.lists(
        st.builds(
            Failure,
            st.sampled_from(["starttls-not-supported", "validation-failure"]),
            st.integers(1, 5),
            ADDRESSES, NAMES, st.one_of(NAMES, ADDRESSES), ADDRESSES, TEXTS, TEXTS,
        ),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_no_inner_address_or_name_stands_in_a_report(failures: list[Failure]) -> None:
    # Every source's counts become reports here: datagrams, logs, our own looks.
    failed = sum(failure.failed_session_count for failure in failures)
    policy = AppliedPolicy("no-policy-found", "bob.example")
    (report,) = compile_reports(
        20_544, "bob.example", [PolicyResult(policy, 0, failed, tuple(failures))], SENDER
    )
    assert report.failed == failed  # the sessions count all the same
    for failure in report.policies[0].failures:
        for address in (failure.sending_mta_ip, failure.receiving_ip):
            assert not address or address == public_address(address)
        assert failure.receiving_mx_hostname in ("", "mx.bob.example")
        free = (
            f"{failure.receiving_mx_helo} {failure.additional_information} "
            f"{failure.failure_reason_code}"
        )
        for inner in ("10.0.0.5", "192.168.", "fd00::5", "relay.corp", ".local", ".lan"):
            assert inner not in free


@given(st.ip_addresses())
def test_an_address_that_is_told_is_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    told = public_address(str(address))
    assert told in ("", public_address(told))
    if is_public(str(address)):
        assert told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("to mx.corp[10.0.0.5]:25: refused", f"to {LEFT_OUT}[{LEFT_OUT}]:25: refused"),
        ("mx.bob.example[192.0.2.1] at 10:30:05", "mx.bob.example[192.0.2.1] at 10:30:05"),
        ("certificate has expired", "certificate has expired"),
        ("[fd12:3456::1] said 550 5.7.1 no", f"[{LEFT_OUT}] said 550 5.7.1 no"),
        ("OpenSSL 3.0.17, num=62", "OpenSSL 3.0.17, num=62"),
        ("", ""),
    ],
)  # fmt: skip
def test_texts_keep_what_is_public(text: str, told: str) -> None:
    assert public_text(text) == told
    assert public_text(told) == told


def test_names_that_no_public_dns_has() -> None:
    assert public_name("MX.Bob.Example.") == "mx.bob.example"
    assert [public_name(name) for name in ("mx", "a.internal", "b.corp", "router.lan", "-")] == [
        ""
    ] * 5
