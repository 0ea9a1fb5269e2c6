"""Sessions read from Postfix's log; lines that strangers forge; lines without end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.reporting.lines import MAX_LINE, Clock, Lines
from smtp_sts.reporting.outcome import Outcome, Trouble
from smtp_sts.reporting.postfix_log import MAX_PROCESSES, PostfixLog

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
AT = datetime(2026, 11, 25, 3, 53, 46, tzinfo=UTC).timestamp()
HEAD = "Nov 25 03:53:46 alice postfix/smtp[100]: "
MX = "mx.bob.example[192.0.2.2]"
TLS = f"{{}} TLS connection established to {MX}:25: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384"
TO = (
    f"4Xyz01: to=<x@bob.example>, relay={MX}:25, delay=0.1, delays=0/0/0.1/0, dsn={{}}, "
    "status={} ({})"
)
SENT = TO.format("2.0.0", "sent", "250 2.0.0 Ok: queued as 1")


def _read(
    *lines: str, head: str = HEAD, own: tuple[str, ...] = ()
) -> tuple[PostfixLog, list[Outcome]]:
    taken: list[Outcome] = []
    log = PostfixLog(taken.append, Clock(NOW, UTC), own)
    for line in lines:
        log.line((line if line.startswith("Nov") else head + line).encode("utf-8", "replace"))
    log.finish()
    return log, taken


def _deferred(reason: str, dsn: str = "4.7.5") -> str:
    return TO.format(dsn, "deferred", reason)


def _trouble(result: str, reason: str) -> Trouble:
    return Trouble(result, "", "mx.bob.example", "", "192.0.2.2", "", reason)


@pytest.mark.parametrize("word", ["Verified", "Trusted", "Untrusted", "Anonymous"])
def test_a_session_that_carried_mail(word: str) -> None:
    _, taken = _read(TLS.format(word), SENT)
    assert taken == [
        Outcome(
            at=AT,
            source="log",
            domain="bob.example",
            failed=False,
            tls=word.lower(),  # type: ignore[arg-type]
            mx_host="mx.bob.example",
            mx_ip="192.0.2.2",
            mx_port=25,
        )
    ]


@pytest.mark.parametrize(
    ("lines", "result", "reason"),
    [
        ([TLS.format("Trusted"), _deferred("Server certificate not verified")],
         "certificate-host-mismatch", ""),
        ([TLS.format("Untrusted"), _deferred("Server certificate not verified")],
         "certificate-not-trusted", ""),
        ([f"certificate verification failed for {MX}:25: untrusted issuer /CN=Some CA",
          TLS.format("Untrusted"), _deferred("Server certificate not verified")],
         "certificate-not-trusted", "untrusted issuer /CN=Some CA"),
        ([f"server certificate verification failed for {MX}:25: certificate has expired",
          TLS.format("Untrusted"), _deferred("Server certificate not verified")],
         "certificate-expired", ""),
        ([f"server certificate verification failed for {MX}:25: num=62:hostname mismatch",
          TLS.format("Untrusted"), _deferred("Server certificate not verified")],
         "certificate-host-mismatch", ""),
        ([f"certificate verification failed for {MX}:25: self-signed certificate",
          f"TLSRPT: status=failure, domain=bob.example, receiving_mx={MX}, "
          "failure_type=validation_failure, failure_reason=self-signed_certificate",
          TLS.format("Untrusted"), _deferred("Server certificate not verified")],
         "certificate-not-trusted", "self-signed_certificate"),
        ([_deferred(f"TLS is required, but was not offered by host {MX}", "4.7.4")],
         "starttls-not-supported", ""),
        ([_deferred(f"TLS is required, but host {MX} refused to start TLS: 454 later", "4.7.4")],
         "starttls-not-supported", ""),
        ([f"SSL_connect error to {MX}:25: Connection reset by peer",
          _deferred("Cannot start TLS: handshake failure")],
         "validation-failure", "TLS handshake failed"),
        ([_deferred("Cannot start TLS: handshake failure")],
         "validation-failure", "TLS handshake failed"),
        ([_deferred("TLSA lookup error for mx.bob.example:25")],
         "dnssec-invalid", "TLSA lookup failed"),
        ([_deferred("no TLSA records found")], "dane-required", "no TLSA records"),
        ([TLS.format("Trusted"),
          f"TLSRPT: status=failure, domain=bob.example, receiving_mx={MX}, "
          "failure_type=certificate_host_mismatch",
          _deferred("Server certificate not verified")],
         "certificate-host-mismatch", ""),
        ([f"TLSRPT: status=failure, domain=bob.example, receiving_mx={MX}, "
          "failure_type=starttls_not_supported",
          _deferred(f"TLS is required, but was not offered by host {MX}", "4.7.4")],
         "starttls-not-supported", ""),
    ],
)  # fmt: skip
def test_a_session_that_failed_is_counted_once_with_its_type(
    lines: list[str], result: str, reason: str
) -> None:
    log, taken = _read(*lines)
    assert [(o.domain, o.failed, o.troubles) for o in taken] == [
        ("bob.example", True, (_trouble(result, reason),))
    ]
    assert (log.unclear, log.unfinished) == (0, 0)


def test_many_recipients_of_one_session_are_one_session() -> None:
    reason = _deferred("Server certificate not verified")
    assert len(_read(TLS.format("Trusted"), reason, reason, reason)[1]) == 1
    refused = _deferred(f"TLS is required, but was not offered by host {MX}", "4.7.4")
    assert len(_read(refused, refused, refused)[1]) == 1
    assert len(_read(TLS.format("Verified"), SENT, SENT)[1]) == 1


def test_the_host_that_was_given_up_and_the_one_that_took_the_mail_are_two_sessions() -> None:
    other = MX.replace("mx.", "mx2.").replace(".2]", ".3]")
    _, taken = _read(
        f"4Xyz01: TLS is required, but was not offered by host {MX}",
        TLS.format("Verified").replace(MX, other),
        SENT.replace(MX, other),
    )
    assert [(o.failed, o.mx_host, o.tls) for o in taken] == [
        (True, "mx.bob.example", ""),
        (False, "mx2.bob.example", "verified"),
    ]
    _, taken = _read(
        TLS.format("Trusted"),
        "4Xyz01: Server certificate not verified",
        TLS.format("Trusted").replace(MX, other),
        _deferred("Server certificate not verified").replace(MX, other),
    )
    assert [(o.troubles[0].result_type, o.mx_ip) for o in taken] == [
        ("certificate-host-mismatch", "192.0.2.2"),
        ("certificate-host-mismatch", "192.0.2.3"),
    ]


def test_a_remote_refusal_is_no_failure_of_tls() -> None:
    _, taken = _read(TLS.format("Verified"), _deferred(f"host {MX} said: 451 4.7.1 Greylisted"))
    assert [(o.failed, o.tls) for o in taken] == [(False, "verified")]


def test_a_session_used_again_is_not_counted_again() -> None:
    again = SENT.replace(":25, ", ":25, conn_use=2, ").replace("4Xyz01", "4Xyz02")
    log, taken = _read(TLS.format("Verified"), SENT, again)
    assert (len(taken), log.plain) == (1, 0)


LATER = HEAD.replace("03:53:46", "03:53:50")


def test_mail_without_tls_is_counted_apart() -> None:
    other = SENT.replace("bob", "eve")
    third = LATER.replace(":50", ":55") + other.replace("4Xyz01", "4Xyz03")
    log, taken = _read(TLS.format("Verified"), SENT, LATER + other)
    assert (len(taken), log.plain, log.silent) == (1, 1, 0)
    log, taken = _read(LATER + other, third, TLS.format("Trusted"))
    assert (log.plain, log.silent) == (1, 1)


@pytest.mark.parametrize(
    ("feature", "counted", "plain"),
    [
        ("secure", "verified", 0),
        ("dane", "verified", 0),
        ("dane:halfdane", "verified", 0),
        ("may", "", 0),
        ("dane:encrypt", "", 0),
        ("secure/requiretls", "verified", 0),
        ("may/requiretls:none", "", 0),
        ("may:none", None, 1),
        ("none", None, 1),
        ("may?", None, 1),
        ("may:none/requiretls:none", None, 1),
    ],
)
def test_a_postfix_that_tells_of_tls_with_the_delivery_needs_no_loglevel(
    feature: str, counted: str | None, plain: int
) -> None:
    """smtp_log_tls_feature_status of Postfix 3.11; and lines that stand there are the better."""
    told = SENT.replace("dsn=", f"tls={feature}, dsn=")
    log, taken = _read(told)
    assert [(o.tls, o.failed, o.domain, o.mx_ip) for o in taken] == (
        [] if counted is None else [(counted, False, "bob.example", "192.0.2.2")]
    )
    assert (log.plain, log.silent, log.unclear) == (plain, 0, 0)
    log, taken = _read(TLS.format("Trusted"), told)
    assert [o.tls for o in taken] == ["trusted"]


@pytest.mark.parametrize(
    ("feature", "reason", "result"),
    [
        ("!secure:none", f"TLS is required, but was not offered by host {MX}",
         "starttls-not-supported"),
        ("!secure:none", "words of a later Postfix", "starttls-not-supported"),
        ("!dane-only", "words of a later Postfix", "validation-failure"),
        ("!secure:encrypt", "Server certificate not verified", "validation-failure"),
    ],
)  # fmt: skip
def test_a_level_that_was_not_met_is_a_failure_once(feature: str, reason: str, result: str) -> None:
    told = _deferred(reason).replace("dsn=", f"tls={feature}, dsn=")
    log, taken = _read(told, told)
    assert [(o.failed, o.troubles[0].result_type) for o in taken] == [(True, result)]
    assert (log.unclear, log.plain) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        ("delay=", "colour=blue, delay="),
        ("relay=", "note=x_1, relay="),
        ("dsn=", "tls=may, retry=2/5, dsn="),
        ("relay=", "orig_to=<root>, relay="),
    ],
)
def test_fields_of_a_later_postfix_do_not_hide_a_delivery(change: tuple[str, str]) -> None:
    log, taken = _read(TLS.format("Verified"), SENT.replace(*change))
    assert ([o.tls for o in taken], log.unclear) == (["verified"], 0)


def test_a_log_without_sessions_is_no_word_of_failures() -> None:
    """smtp_tls_loglevel = 0: the failures alone would look as if nothing had gone well."""
    failed = _deferred(f"TLS is required, but was not offered by host {MX}", "4.7.4")
    failed = failed.replace("4Xyz01", "4Xyz02")
    other = failed.replace("bob", "eve").replace("4Xyz02", "4Xyz03")
    lines = [LATER + SENT, LATER + failed, LATER + other]
    log, taken = _read("warning: x", *lines)
    assert (taken, log.plain, log.silent, log.mute) == ([], 0, 3, {"alice postfix": 1})
    # one session: the log tells of them
    log, taken = _read("warning: x", *lines, HEAD.replace("100", "7") + TLS.format("Trusted"))
    assert (len(taken), log.plain, log.silent, log.mute) == (2, 1, 0, {})
    # of a Postfix that has delivered nothing the failures are all there is
    log, taken = _read(*lines[1:])
    assert (len(taken), log.silent) == (2, 0)
    # another Postfix on the same host says nothing of this one
    log, taken = _read(HEAD.replace("postfix/", "out/") + TLS.format("Trusted"), *lines)
    assert (taken, log.silent, log.mute) == ([], 3, {"alice postfix": 1})


def test_a_log_that_begins_in_the_middle_does_not_tell_of_its_first_deliveries() -> None:
    long = SENT.replace("delays=0/0/0.1/0", "delays=0/0/4/1").replace("4Xyz01", "4Xyz02")
    log, _ = _read(SENT, LATER + long, TLS.format("Trusted"), LATER + SENT.replace("bob", "eve"))
    assert (log.silent, log.plain) == (2, 0)
    reason = _deferred("Server certificate not verified")
    _, taken = _read(reason)
    assert [t.failure_reason_code for o in taken for t in o.troubles] == [
        "certificate not verified"
    ]


@pytest.mark.parametrize(
    ("recipient", "domain"),
    [
        ("bob@m\u00fcnchen.example", "xn--mnchen-3ya.example"),
        ("b\u00fcb@M\u00dcNCHEN.example", "xn--mnchen-3ya.example"),
        ("bob@xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("bob@\u4f8b\u3048.example", "xn--r8jz45g.example"),
    ],
)
def test_a_recipient_in_u_labels_is_one_of_the_a_label(recipient: str, domain: str) -> None:
    log, taken = _read(TLS.format("Verified"), SENT.replace("x@bob.example", recipient))
    assert ([o.domain for o in taken], log.unclear) == ([domain], 0)


def test_soft_bounce_is_no_delivery() -> None:
    """soft_bounce = yes."""
    line = _deferred("Server certificate not verified").replace("=deferred", "=SOFTBOUNCE")
    log, taken = _read(TLS.format("Trusted"), line)
    assert [o.troubles[0].result_type for o in taken] == ["certificate-host-mismatch"]
    assert log.unclear == 0


def test_processes_do_not_mix() -> None:
    other = HEAD.replace("[100]", "[200]")
    _, taken = _read(
        TLS.format("Trusted"),
        other + TLS.format("Verified").replace("bob", "eve"),
        other + SENT.replace("bob", "eve"),
        _deferred("Server certificate not verified"),
    )
    assert [(o.domain, o.failed) for o in taken] == [("eve.example", False), ("bob.example", True)]


def test_our_own_reports_are_left_out() -> None:
    """No report about the session that brought a report."""
    queue = (
        "Nov 25 03:53:46 alice postfix/qmgr[9]: 4Xyz01: from=<tlsrpt@a.example>, size=5, nrcpt=1"
    )
    log, taken = _read(queue, TLS.format("Verified"), SENT, own=("tlsrpt@a.example",))
    assert (taken, log.own) == ([], 1)


def test_a_forged_sender_keeps_nothing_but_its_own_mail_out_of_reports() -> None:
    """A stranger's mail in our contact's name, through a forwarding of ours (docs/
    tls-reports-delivery.md): that session is left out, and the next of the same host is not."""
    own = "Nov 25 03:53:46 alice postfix/qmgr[9]: 4Xyz01: from=<tlsrpt@a.example>, size=5, nrcpt=1"
    other = SENT.replace("4Xyz01", "4Xyz02")
    assert other != SENT
    log, taken = _read(
        own, TLS.format("Verified"), SENT, TLS.format("Verified"), other, own=("tlsrpt@a.example",)
    )
    assert (len(taken), log.own) == (1, 1)


def test_lost_datagrams_are_read_from_the_log() -> None:
    log, _ = _read(
        "warning: Could not report TLS handshake result to tlsrpt library: "
        "Resource temporarily unavailable (errno 11)"
    )
    assert log.lost_datagrams == 1


@pytest.mark.parametrize(
    "line",
    [
        # banners and replies
        _deferred(f"host {MX} said: 451 x) {HEAD}{TLS.format('Trusted')}"),
        _deferred(f"host {MX} said: 451 (Server certificate not verified)"),
        _deferred(f"host {MX} said: 451 TLS is required, but was not offered by host {MX}"),
        f"4Xyz01: host {MX} said: 451 Server certificate not verified",
        f"4Xyz01: host {MX} said: 451 to=<x@victim.example>, relay={MX}:25, delay=1, "
        "delays=0/0/0/0, dsn=4.7.5, status=deferred (Server certificate not verified)",
        TO.format("2.0.0", "sent", "250 ok) 4A: to=<x@victim.example>, relay=mx.v[192.0.2.9]:25, "
                  "delay=1, delays=0/0/0/0, dsn=4.7.5, status=deferred (no TLSA records found"),
        # local parts of a sender's choosing, quoted and not
        SENT.replace("x@bob", '"x@victim.example>, relay=mx.v[192.0.2.9]:25, delay=1"@bob'),
        SENT.replace("x@bob", "x@victim.example>, relay=mx.v[192.0.2.9]:25, delay=1, delays=0/0/0/0"
                              ", dsn=4.7.5, status=deferred (no TLSA records found)@bob"),
        # other programs, other hosts' text
        f"Nov 25 03:53:46 alice sshd[1]: Invalid user postfix/smtp[100]: {TLS.format('Trusted')}",
        f"Nov 25 03:53:46 alice postfix/smtpd[1]: x: postfix/smtp[100]: {TLS.format('Trusted')}",
        f"Nov 25 03:53:46 alice sshd[1]: postfix/smtp[1]: {_deferred('no TLSA records found')}",
        f"warning: {TLS.format('Trusted')}",
        f"mx.evil[192.0.2.6]: {TLS.format('Trusted')}",
    ],
)  # fmt: skip
def test_law_5_a_forged_line_makes_no_failure_and_names_no_victim(line: str) -> None:
    _, taken = _read(line, SENT)
    assert not [o for o in taken if o.failed or o.domain != "bob.example"]


def test_a_line_that_is_unclear_does_not_lend_its_session_to_the_next() -> None:
    odd = SENT.replace("Ok", "Ok >, relay=mx.v[192.0.2.9]:25")
    log, taken = _read(TLS.format("Verified"), odd, SENT.replace("bob", "eve"))
    assert (taken, log.unclear, log.unfinished) == ([], 1, 1)


@pytest.mark.parametrize(
    ("stamp", "moment"),
    [
        ("Nov 25 03:53:46", datetime(2026, 11, 25, 3, 53, 46, tzinfo=UTC)),
        ("Nov 26 03:53:46", datetime(2026, 11, 26, 3, 53, 46, tzinfo=UTC)),
        ("Dec 31 23:59:59", datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("Jan  1 00:00:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("Feb 29 00:00:00", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2026-11-25T03:53:46.123456+01:00", datetime(2026, 11, 25, 2, 53, 46, tzinfo=UTC)),
        ("2026-11-25T03:53:46+0100", datetime(2026, 11, 25, 2, 53, 46, tzinfo=UTC)),
        ("2019-11-25T03:53:46Z", datetime(2019, 11, 25, 3, 53, 46, tzinfo=UTC)),
    ],
)
def test_the_time_of_a_line(stamp: str, moment: datetime) -> None:
    head = HEAD.replace("Nov 25 03:53:46", stamp)
    _, taken = _read(head + TLS.format("Verified"), head + SENT, head="")
    assert [o.at for o in taken] == [moment.timestamp()]


def test_times_without_a_zone_are_of_the_zone_given() -> None:
    clock = Clock(NOW, timezone(timedelta(hours=2)))
    assert clock.bsd(b"Nov 25 03:53:46") == AT - 7200


@pytest.mark.parametrize("stamp", ["Xyz 25 03:53:46", "Nov 31 03:53:46", "2026-13-25T03:53:46Z"])
def test_a_time_that_cannot_be_is_counted(stamp: str) -> None:
    head = HEAD.replace("Nov 25 03:53:46", stamp)
    log, taken = _read(head + TLS.format("Verified"), head="")
    assert (taken, log.undated) == ([], 1)


def test_processes_are_bounded() -> None:
    lines = [
        HEAD.replace("[100]", f"[{n}]") + TLS.format("Verified") for n in range(MAX_PROCESSES + 50)
    ]
    log, _ = _read(*lines)
    assert log.unfinished == MAX_PROCESSES + 50
    assert not log._processes


_words = st.sampled_from(
    [HEAD, TLS.format("Trusted"), SENT, "\n", "4A: ", "to=<x@y.example>, ", f"relay={MX}:25, ",
     "TLSRPT: status=failure, domain=", "(", ")", "Server certificate not verified", "[", "\xff"]
)  # fmt: skip


@given(st.lists(st.one_of(_words, st.text(max_size=10)), max_size=8), st.booleans())
def test_any_line_is_taken(words: list[str], headed: bool) -> None:
    taken: list[Outcome] = []
    log = PostfixLog(taken.append, Clock(NOW, UTC), ("a@b.example",))
    for _ in range(2):
        log.line(((HEAD if headed else "") + "".join(words)).encode("utf-8", "replace"))
    log.finish()
    for outcome in taken:
        assert outcome.domain
        assert all(t.failure_reason_code.isprintable() for t in outcome.troubles)


# Lines


def test_a_line_of_a_megabyte_is_left_out_and_counted() -> None:
    lines = Lines()
    data = b"one\n" + b"x" * 1_000_000 + b"\ntwo\n" + b"y" * 1_000_000 + b"\nthree\nfour"
    got = [
        line for at in range(0, len(data), 70_000) for line in lines.feed(data[at : at + 70_000])
    ]
    assert [line for line in got if line] == [b"one", b"two", b"three"]
    assert lines.too_long == 2
    assert len(lines._rest) <= MAX_LINE
    assert [line for line in Lines().feed(data) if line] == [b"one", b"two", b"three"]


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 50))
def test_lines_are_the_same_however_they_are_cut(blocks: list[bytes], size: int) -> None:
    data = b"".join(blocks)
    lines = Lines(limit=1000)
    got = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
    assert got == data.split(b"\n")[:-1]


def test_a_clock_goes_on_while_a_log_is_followed() -> None:
    clock = Clock(NOW, UTC)
    clock.now = datetime(2027, 3, 3, 12, tzinfo=UTC).timestamp()
    assert clock.bsd(b"Mar  3 11:00:00") == clock.now - 3600


@pytest.mark.parametrize("hours", [-12, -3.5, 0, 1, 5.75, 14])
@pytest.mark.parametrize("form", ["%b %d %H:%M:%S ", "%Y-%m-%d %H:%M:%S ", "%Y-%m-%dT%H:%M:%S.1 "])
@pytest.mark.parametrize("now", [NOW, datetime(2026, 12, 31, 23, 59, tzinfo=UTC).timestamp()])
def test_the_zone_of_a_log_is_learnt_from_lines_that_were_just_written(
    hours: float, form: str, now: float
) -> None:
    zone = timezone(timedelta(hours=hours))
    line = datetime.fromtimestamp(now - 2, zone).strftime(form).encode()
    clock = Clock(now, UTC)
    assert clock.notice(line, now) is (hours != 0)
    assert not clock.notice(line, now)
    assert (clock.zone or UTC).utcoffset(None) == zone.utcoffset(None)


@pytest.mark.parametrize(
    "line",
    [
        b"2026-11-25T05:00:00+02:00 a b",
        b"2026-11-25 05:00:00 +0200 1tFabc-0000Ab-2C => x",
        b"Nov 25 11:53:00 a b",  # late
        b"Nov 20 12:00:00 a b",
        b"Nov 31 12:00:00 a b",
        b"Xyz 25 12:00:00 a b",
        b"2026-13-25 12:00:00 a b",
        b"a b",
    ],
)
def test_a_line_that_does_not_tell_its_zone_changes_none(line: bytes) -> None:
    clock = Clock(NOW, UTC)
    assert not clock.notice(line, NOW)
    assert clock.zone is UTC
