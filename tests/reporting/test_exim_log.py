"""Sessions read from Exim's main log."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.reporting.exim_log import EximLog
from smtp_sts.reporting.lines import Clock
from smtp_sts.reporting.outcome import Outcome

AT = datetime(2026, 11, 25, 3, 53, 46, tzinfo=UTC).timestamp()
HEAD = "2026-11-25 03:53:46 1tFabc-0000Ab-2C "
HOST = "H=mx.bob.example [192.0.2.2]"
ROUTE = "R=dnslookup T=remote_smtp"
X = "X=TLS1.3:TLS_AES_256_GCM_SHA384:256"
GOOD = f'=> x@bob.example {ROUTE} {HOST} {X} CV={{}} DN="CN=mx.bob.example" C="250 OK id=1"'


def _read(*lines: str, own: tuple[str, ...] = ()) -> tuple[EximLog, list[Outcome]]:
    taken: list[Outcome] = []
    log = EximLog(taken.append, Clock(AT + 10, UTC), own)
    for line in lines:
        log.line((line if line.startswith(("2026", "Nov")) else HEAD + line).encode())
    log.finish()
    return log, taken


@pytest.mark.parametrize(
    ("cv", "tls", "policy"),
    [("yes", "verified", None), ("no", "untrusted", None), ("dane", "verified", "tlsa")],
)
@pytest.mark.parametrize(
    "change",
    [
        ("", ""),
        ("x@bob.example", "user <x@bob.example>"),
        ("=> x@bob.example", "=> x@bob.example <alias@a.example>"),
        ("=> x@bob.example", "=> x@bob.example F=<a@a.example>"),
        (" H=", " S=1234 H="),
        ("[192.0.2.2]", "[192.0.2.2]:25"),
        ("=> ", ">> "),
        ("=> x@bob.example", "=> x@bob.example (list@a.example, all@a.example) <root@a.example>"),
        ("=> x@bob.example", "=> x@bob.example Q=slow F=<a@a.example> P=<b+x=y@a.example>"),
        ("=> x@bob.example", '=> x@bob.example F=<"a b> H=mx.v [192.0.2.9]"@a.example> P=<>'),
        (" X=", " I=[198.51.100.10]:39926 TFO* X="),
        ("[192.0.2.2]", "DS [192.0.2.2]:25 PRX=[198.51.100.9]:1080 I=[198.51.100.10]:55246"),
        (" C=", " A=plain:alice K PRDR L* C="),
        (' C="250 OK id=1"', ' K C="250 OK id=1" QT=1m3s DT=0.036s'),
        (f"{ROUTE} {HOST}", f"{HOST} {ROUTE}"),
        ("x@bob.example", "x@BOB.example"),
    ],
)
def test_a_session_that_carried_mail(
    cv: str, tls: str, policy: str | None, change: tuple[str, str]
) -> None:
    _, taken = _read(
        GOOD.format(cv).replace(*change) if change[0] else GOOD.format(cv), "Completed"
    )
    assert [(o.at, o.domain, o.failed, o.tls, o.mx_host, o.mx_ip) for o in taken] == [
        (AT, "bob.example", False, tls, "mx.bob.example", "192.0.2.2")
    ]
    assert (taken[0].policy and taken[0].policy.policy_type) == policy


@pytest.mark.parametrize(
    "head",
    [
        "2026-11-25 03:53:46.123 1tFabc-0000Ab-2C ",
        "2026-11-25 04:53:46 +0100 1tFabc-0000Ab-2C ",
        "2026-11-25 03:53:46 [1234] 1tFabc-0000Ab-2C ",
        "2026-11-25 03:53:46 1tFabc-00000000Ab0-2CxY ",
        "Nov 25 03:53:46 alice exim[77]: 2026-11-25 03:53:46 1tFabc-0000Ab-2C ",
        "Nov 25 03:53:46 alice exim[77]: 1tFabc-0000Ab-2C ",
        "Nov 25 03:53:46 alice exim4: [1/2] 1tFabc-0000Ab-2C ",
        "2026-11-25T04:53:46.123+01:00 alice exim-out[77]: [77] 1tFabc-0000Ab-2C ",
        # of two times the one with a zone
        "2026-11-25T03:53:46Z alice exim[77]: 2026-11-25 13:53:46 1tFabc-0000Ab-2C ",
        "Nov 25 13:53:46 alice exim[77]: 2026-11-25 04:53:46 +0100 1tFabc-0000Ab-2C ",
    ],
)
def test_the_heads_of_lines(head: str) -> None:
    _, taken = _read(head + GOOD.format("yes"))
    assert [o.at for o in taken] == [AT]


NOT_OFFERED = "a TLS session is required, but the server did not offer TLS support"
UNVERIFIED = "TLS session: (certificate verification failed): certificate invalid"


@pytest.mark.parametrize(
    ("evidence", "reason", "result"),
    [
        ([], NOT_OFFERED, "starttls-not-supported"),
        ([], "a TLS session is required, but an attempt to start TLS failed",
         "validation-failure"),
        ([], UNVERIFIED, "certificate-not-trusted"),
        ([], "TLS session: (certificate verification failed)", "certificate-host-mismatch"),
        (['[192.0.2.2] SSL verify error: certificate name mismatch: DN="CN=x" H="mx.bob.example"'],
         UNVERIFIED, "certificate-host-mismatch"),
        (["[192.0.2.2] SSL verify error: depth=0 error=certificate has expired cert=/CN=x"],
         UNVERIFIED, "certificate-expired"),
        ([], "TLS session: (gnutls_handshake): The TLS connection was non-properly terminated.",
         "validation-failure"),
        ([], "DANE error: tlsa lookup DEFER", "dnssec-invalid"),
    ],
)  # fmt: skip
def test_a_host_that_failed_is_counted_once_for_the_deferred_domain(
    evidence: list[str], reason: str, result: str
) -> None:
    log, taken = _read(
        *evidence, f"{HOST}: {reason}", f"== x@bob.example {ROUTE} defer (-37) {HOST}: {reason}"
    )
    assert [(o.domain, o.failed, o.troubles[0].result_type, o.mx_ip) for o in taken] == [
        ("bob.example", True, result, "192.0.2.2")
    ]
    assert log.unattributed == 0


@pytest.mark.parametrize(
    "fields", [" I=[198.51.100.10]:55246", " DT=0.002s", " I=[198.51.100.10] DT=2s", ""]
)
@pytest.mark.parametrize("host", [HOST, HOST.replace("[", "DS [") + ":25"])
@pytest.mark.parametrize("apart", [True, False])
def test_a_deferral_with_more_fields(fields: str, host: str, apart: bool) -> None:
    lines = [f"{host}: {NOT_OFFERED}"] if apart else []
    lines.append(
        f"== x@bob.example (all@a.example) F=<a@a.example> {ROUTE} defer (-38) {host}{fields}: "
        + NOT_OFFERED
    )
    log, taken = _read(*lines)
    assert [(o.domain, o.troubles[0].result_type, o.mx_ip) for o in taken] == [
        ("bob.example", "starttls-not-supported", "192.0.2.2")
    ]
    assert (log.unclear, log.unattributed) == (0, 0)


@pytest.mark.parametrize(
    "line",
    [
        f"=> x@bob.example {ROUTE} H=mx.bob.example 192.0.2.2 {X} CV=yes",
        f"=> x@bob.example {ROUTE} F=<a b@c> {HOST} {X} CV=yes",
        f"== x@bob.example {ROUTE} defer (-37) H=mx.bob.example: {NOT_OFFERED}",
    ],
)
def test_a_line_that_names_a_host_and_is_not_understood_is_counted(line: str) -> None:
    log, taken = _read(line)
    assert (taken, log.unclear) == ([], 1)


def test_a_session_used_again_is_not_counted_again() -> None:
    again = GOOD.format("no").replace("[192.0.2.2]", "[192.0.2.2]:25*")
    log, taken = _read(GOOD.format("yes"), HEAD.replace("2C", "2D") + again)
    assert ([o.tls for o in taken], log.reused, log.plain, log.unclear) == (["verified"], 1, 0, 0)


@pytest.mark.parametrize(("fields", "tls"), [(X, ""), (f"{X} CV=no", "untrusted"), ("", None)])
def test_a_certificate_of_which_the_log_does_not_tell(fields: str, tls: str | None) -> None:
    """log_selector = -tls_certificate_verified."""
    log, taken = _read(f'=> x@bob.example {ROUTE} {HOST} {fields} C="250 ok"'.replace("  ", " "))
    assert [o.tls for o in taken] == ([] if tls is None else [tls])
    assert log.plain == (tls is None)


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ("TLS session failure: delivering unencrypted to mx.bob.example [192.0.2.2]",
         "validation-failure"),
        ("TLS session: (gnutls_handshake): timed out: delivering unencrypted to "
         "H=mx.bob.example [192.0.2.2]", "validation-failure"),
        ("TLS session: (certificate verification failed): certificate invalid: delivering "
         "unencrypted to H=mx.bob.example [192.0.2.2]", "certificate-not-trusted"),
    ],
)  # fmt: skip
def test_a_session_that_failed_is_one_though_the_mail_went_without_tls(
    said: str, result: str
) -> None:
    plain = f'=> x@bob.example {ROUTE} {HOST} C="250 ok"'
    other = plain.replace("bob", "eve").replace("192.0.2.2", "192.0.2.3")
    log, taken = _read(f"{said} (not in hosts_require_tls)", other, plain, "Completed")
    assert [(o.domain, o.failed, o.troubles[0].result_type) for o in taken] == [
        ("bob.example", True, result)
    ]
    assert (log.plain, log.unattributed) == (2, 0)


def test_a_host_that_failed_before_another_took_the_mail() -> None:
    good = GOOD.format("yes").replace("mx.bob", "mx2.bob")
    _, taken = _read(f"{HOST}: {NOT_OFFERED}", good, "Completed")
    assert sorted((o.failed, o.mx_host, o.domain) for o in taken) == [
        (False, "mx2.bob.example", "bob.example"),
        (True, "mx.bob.example", "bob.example"),
    ]


def test_a_failure_that_could_be_of_two_domains_is_counted_and_not_guessed() -> None:
    good = GOOD.format("yes")
    log, taken = _read(
        f"{HOST.replace('mx', 'mx9')}: {NOT_OFFERED}", good, good.replace("bob", "eve"), "Completed"
    )
    assert (len(taken), log.unattributed) == (2, 1)
    assert not any(o.failed for o in taken)


def test_a_refusal_that_is_not_of_tls_is_none_of_ours() -> None:
    _, taken = _read(
        f"{HOST} Connection timed out",
        f"== x@bob.example {ROUTE} defer (110): Connection timed out",
        f"** x@bob.example {ROUTE} {HOST} {X} CV=yes: SMTP error from remote mail server: 550 no",
    )
    assert taken == []


def test_mail_without_tls_is_counted_apart() -> None:
    log, taken = _read(f'=> x@bob.example {ROUTE} {HOST} C="250 {X} CV=yes"')
    assert (taken, log.plain) == ([], 1)


def test_our_own_reports_are_left_out() -> None:
    log, taken = _read(
        "<= tlsrpt@a.example U=x P=local S=1", GOOD.format("yes"), own=("tlsrpt@a.example",)
    )
    assert (taken, log.own) == ([], 1)


@pytest.mark.parametrize(
    "line",
    [
        f'=> x@bob.example {ROUTE} {HOST} X=a CV=no DN="CN=\\" H=mx.v [192.0.2.9] CV=yes" C="250"',
        f'=> "x@victim.example {ROUTE} {HOST} {X} CV=yes "@bob.example {ROUTE} {HOST} {X} CV=no',
        f'{HOST}: SMTP error from remote mail server after EHLO: 451 {NOT_OFFERED}',
        f'{HOST}: SMTP error: 451 2026-11-25 03:53:46 1tFabc-0000Ab-2C {HOST}: {NOT_OFFERED}',
        f"Nov 25 03:53:46 a sshd[1]: Invalid user a exim[77]: {HEAD}{HOST}: {NOT_OFFERED}",
        f"2026-11-25 03:53:46 rejected EHLO from [192.0.2.6]: {HEAD}{HOST}: {NOT_OFFERED}",
        f"2026-11-25 03:53:46 SMTP syntax error in \"{HEAD}{HOST}: {NOT_OFFERED}\" H=x [192.0.2.6]",
    ],
)  # fmt: skip
def test_law_5_a_forged_line_makes_no_failure_and_names_no_victim(line: str) -> None:
    _, taken = _read(line, "Completed")
    assert not [o for o in taken if o.failed or o.domain != "bob.example" or o.tls == "verified"]


_words = st.sampled_from(
    [HEAD, HOST, ROUTE, X, "=> ", "== ", "x@y.example ", NOT_OFFERED, "Completed", '"', ": ", "CV="]
)


@given(st.lists(st.one_of(_words, st.text(max_size=8)), max_size=10))
def test_any_line_is_taken(words: list[str]) -> None:
    log = EximLog(lambda outcome: None, Clock(AT, UTC), ("a@b.example",))
    for _ in range(2):
        log.line((HEAD + "".join(words)).encode("utf-8", "replace"))
    log.finish()


#: What Exim 4.96 of Debian 12 (GnuTLS) logged of good and bad receivers.
REAL = """\
2026-11-25 04:50:42 1xW4xu-0003CL-0Y <= alice@alice.example U=root P=local S=304
2026-11-25 04:50:42 1xW4xu-0003CL-0Y => bob@enforce.example R=strict T=strict H=mx.enforce.example [192.0.2.25] X=TLS1.3:ECDHE_SECP256R1__ECDSA_SECP256R1_SHA256__AES_256_GCM:256 CV=yes C="250 taken"
2026-11-25 04:50:42 1xW4xu-0003CL-0Y Completed
2026-11-25 04:50:42 1xW4xu-0003CR-0f == bob@wrong-name.example R=strict T=strict defer (-37) H=mx.wrong-name.example [192.0.2.35]: TLS session: (certificate verification failed)
2026-11-25 04:50:42 1xW4xu-0003CV-0j == bob@self-signed.example R=strict T=strict defer (-37) H=mx.self-signed.example [192.0.2.36]: TLS session: (certificate verification failed): certificate invalid
2026-11-25 04:50:42 1xW4xu-0003Cf-0u H=mx.stripped.example [192.0.2.33]: a TLS session is required, but the server did not offer TLS support
2026-11-25 04:50:42 1xW4xu-0003Cf-0u == bob@stripped.example R=strict T=strict defer (-38) H=mx.stripped.example [192.0.2.33]: a TLS session is required, but the server did not offer TLS support
2026-11-25 04:50:42 1xW4xu-0003Cp-14 => bob@testing.example R=other T=remote_smtp H=mx.testing.example [192.0.2.29] X=TLS1.3:ECDHE_SECP256R1__ECDSA_SECP256R1_SHA256__AES_256_GCM:256 CV=no C="250 taken"
2026-11-25 04:50:42 1xW4xu-0003Cp-14 Completed
2026-11-25 04:50:42 1xW4xu-0003Ct-19 => bob@plain.example R=other T=remote_smtp H=mx.plain.example [192.0.2.32] C="250 taken"
2026-11-25 04:50:42 1xW4xu-0003D1-1I == bob@stripped.example R=strict T=strict defer (-54): retry time not reached for any host for 'stripped.example'
2026-11-25 04:50:45 Start queue run: pid=12443 -qff
2026-11-25 04:50:45 1xW4xu-0003CV-0j == bob@self-signed.example R=strict T=strict defer (-37) H=mx.self-signed.example [192.0.2.36]: TLS session: (certificate verification failed): certificate invalid
2026-11-25 04:50:45 1xW4xu-0003CV-0j == eve@self-signed.example R=strict T=strict defer (-37) H=mx.self-signed.example [192.0.2.36]: TLS session: (certificate verification failed): certificate invalid
2026-11-25 04:50:45 End queue run: pid=12443 -qff
"""  # noqa: E501


def test_the_log_of_a_real_exim() -> None:
    log, taken = _read(*REAL.splitlines())
    assert [(o.domain, o.tls, o.troubles[0].result_type if o.failed else "") for o in taken] == [
        ("enforce.example", "verified", ""),
        ("wrong-name.example", "", "certificate-host-mismatch"),
        ("self-signed.example", "", "certificate-not-trusted"),
        ("stripped.example", "", "starttls-not-supported"),
        ("testing.example", "untrusted", ""),
        ("self-signed.example", "", "certificate-not-trusted"),
    ]
    assert (log.plain, log.unclear, log.unattributed) == (1, 0, 0)
