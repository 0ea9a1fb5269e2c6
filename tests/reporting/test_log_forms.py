"""Logs in the forms that the field has them in, each with the right counts; and the same sessions
in every form that lines are carried in."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from smtp_sts.cli import main
from smtp_sts.reporting.envelopes import bare
from smtp_sts.reporting.import_log import Options, Summary, import_log
from smtp_sts.reporting.lines import Lines
from smtp_sts.reporting.log_kind import LogError
from smtp_sts.reporting.log_lines import LogLines

LOGS = Path(__file__).parent / "logs"
#: of a log's last change
LAST = datetime(2026, 11, 28, tzinfo=UTC).timestamp()

#: log -> good, failed, without TLS, domains, exit status
FOUND = {
    "exim-cutthrough": (1, 0, 0, 1, 0),
    "exim-deliver_time": (3, 4, 1, 7, 0),
    "exim-dnssec": (3, 4, 1, 7, 0),
    "exim-incoming_interface": (3, 4, 1, 7, 0),
    "exim-log_selector-all": (3, 4, 1, 7, 0),
    "exim-sender_on_delivery__return_path_on_delivery": (3, 4, 1, 7, 0),
    "exim-syslog-no-timestamp": (2, 0, 0, 1, 0),
    "postfix-3.11-tls-field": (3, 1, 1, 4, 0),
    "postfix-compose-prefix": (1, 0, 0, 1, 0),
    "postfix-crlf": (1, 0, 0, 1, 0),
    "postfix-docker-json-file": (1, 0, 0, 1, 0),
    "postfix-journalctl-o-json": (1, 0, 0, 1, 0),
    "postfix-journalctl-short-precise": (1, 0, 0, 1, 0),
    "postfix-mailcow-double-header": (1, 0, 0, 1, 0),
    "postfix-rfc5424": (1, 0, 0, 1, 0),
    "postfix-taken-for-exim": (1, 0, 0, 1, 0),
    "postfix-tls_loglevel-0": (0, 0, 0, 0, 2),
    "postfix-u-label": (1, 0, 0, 1, 0),
}


def test_every_log_is_in_the_table() -> None:
    assert {path.stem for path in LOGS.iterdir()} == set(FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_a_log_has_the_right_counts(name: str, tmp_path: Path) -> None:
    good, failed, plain, domains, status = FOUND[name]
    config = tmp_path / "c.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/s.db"\n')
    command = ["--config", str(config), "report", "import-log", "--dry-run", "--json"]
    result = CliRunner().invoke(main, [*command, str(LOGS / f"{name}.log")])
    assert result.exit_code == status, result.output
    told = json.loads(result.stdout)
    assert sum(day["successful"] for day in told["days"].values()) == good
    assert sum(day["failed"] for day in told["days"].values()) == failed
    assert (told["plain"], told["domains"], told["unclear"]) == (plain, domains, 0)
    assert told["not_understood"] == 0
    assert told["kind"] == name.partition("-")[0]


MX = "mx.bob.example[192.0.2.25]:25"
TLS = f"Trusted TLS connection established to {MX}: TLSv1.3 with cipher X (256/256 bits)"
SENT = f"4YpXgj: to=<bob@bob.example>, relay={MX}, delay=0.06, delays=0/0/0/0, dsn=2.0.0, status="
TEXTS = (TLS, SENT + "sent (250 taken)", SENT + "deferred (host said: 451 later)")
BSD = "Nov 24 02:48:56 alice postfix/smtp[15]: {}"
AT = datetime(2026, 11, 24, 2, 48, 56, tzinfo=UTC).timestamp()

#: a form of a line -> the zone it is in, hours east of UTC ("" for one that says its zone)
FORMS = {
    # syslog's
    BSD: 0,
    "<22>" + BSD: 0,
    "Nov 24 02:48:56.123456 alice postfix/smtp[15]: {}": 0,
    "2026-11-24T02:48:56.123456+00:00 alice postfix/smtp[15]: {}": 0,
    "2026-11-24T03:48:56+0100 alice postfix/smtp[15]: {}": 0,
    "2026-11-24T02:48:56 alice postfix/smtp[15]: {}": 0,
    "2026-11-24 02:48:56 alice postfix/smtp[15]: {}": 0,
    "2026-11-24 03:48:56.123 +01:00 alice postfix/smtp[15]: {}": 0,
    "2026-11-24 02:48:56,123 INFO postfix/smtp[15]: {}": 0,
    "2026-11-24 02:48:56 INFO: postfix/smtp[15]: {}": 0,
    "2026/11/24 02:48:56 alice postfix/smtp[15]: {}": 0,
    "Nov 24 2026 02:48:56 alice postfix/smtp[15]: {}": 0,
    "2026 Nov 24 02:48:56 alice postfix/smtp[15]: {}": 0,
    "Nov 24 02:48:56 alice mail.info postfix/smtp[15]: {}": 0,  # BusyBox
    "Nov 24 02:48:56 <mail.info> alice postfix/smtp[15]: {}": 0,  # FreeBSD
    "Nov 24 02:48:56 alice postfix/smtp[15]: [ID 197553 mail.info] {}": 0,  # Solaris
    "Nov 24 02:48:56 postfix/smtp[15]: {}": 0,
    "<22>1 2026-11-24T02:48:56.123456Z alice postfix/smtp 15 - - {}": 0,
    "<22>1 2026-11-24T03:48:56+01:00 alice postfix/smtp 15 - "
    '[meta a="x\\"]"][b@1 c="d"] \ufeff{}': 0,
    "1 2026-11-24T02:48:56Z alice postfix/smtp 15 ID47 - {}": 0,
    # journalctl's: short-full, short-unix, short in other languages, with-unit
    "Tue 2026-11-24 02:48:56 UTC alice postfix/smtp[15]: {}": 0,
    "Tue 2026-11-24 03:48:56 CET alice postfix/smtp[15]: {}": 1,
    "1795488536.123456 alice postfix/smtp[15]: {}": 0,
    "nov. 24 02:48:56 alice postfix/smtp[15]: {}": 0,
    "\u043d\u043e\u044f 24 02:48:56 alice postfix/smtp[15]: {}": 0,
    "11\u6708 24 02:48:56 alice postfix/smtp[15]: {}": 0,
    "Tue 2026-11-24 02:48:56 UTC alice postfix@-.service/postfix/smtp[15]: {}": 0,
    # containers'
    "postfix-1  | " + BSD: 0,
    "\x1b[36mpostfix-1  | \x1b[0m" + BSD: 0,
    "postfix-1  | 2026-11-24T02:48:56.123456789Z " + BSD.replace("02:48", "11:48"): 0,
    "2026-11-24T02:48:56.123456789Z " + BSD.replace("02:48", "11:48"): 0,
    "[pod/mail-0/postfix] " + BSD: 0,
    "2026-11-24T02:48:56.123456789Z stdout F " + BSD.replace("02:48", "11:48"): 0,
    "2026-11-24T03:48:56.123456789+01:00 stderr F " + BSD: 0,
    "Nov 24 02:48:56 host 4387585e3a11[868]: " + BSD: 0,
    "2026-11-24T03:48:56+01:00 host docker/mail[868]: " + BSD.replace("02:48", "11:48"): 0,
    "2026-11-24T03:48:56+01:00 localhost postfix[868]: " + BSD.replace("02:48", "03:48"): 0,
    "Nov 24 02:48:56 host docker-compose[1]: postfix-1  | " + BSD: 0,
    "Nov 24 02:48:56 host conmon[1]: <22>1 2026-11-24T02:48:56Z alice postfix/smtp 15 - - {}": 0,
}
KEYS = {
    "log": {"log": BSD + "\n", "stream": "stdout", "time": "2026-11-24T02:48:56.1Z"},
    "attrs": {
        "log": BSD + "\n", "stream": "stdout", "attrs": {"tag": "x"},
        "time": "2026-11-24T02:48:56.123456789Z",
    },
    "rsyslog": {
        "timereported": "2026-11-24T03:48:56+01:00", "hostname": "alice",
        "syslogtag": "postfix/smtp[15]:", "message": " {}",
    },
    "logstash": {
        "@timestamp": "2026-11-24T02:48:56.123Z", "host": "alice", "program": "postfix/smtp",
        "pid": "15", "message": "{}",
    },
    "loki": {"labels": {"job": "x"}, "line": BSD, "timestamp": "2026-11-24T02:48:56.1Z"},
    "gelf": {"short_message": BSD, "timestamp": 1795488536.123, "host": "x"},
}  # fmt: skip
ENTRY = {
    "__CURSOR": "s=a;i=1", "__REALTIME_TIMESTAMP": "1795488536123456", "_HOSTNAME": "alice",
    "_UID": "101", "SYSLOG_IDENTIFIER": "postfix/smtp", "SYSLOG_PID": "15", "MESSAGE": "",
}  # fmt: skip


def _filled(value: object, text: str) -> object:
    if isinstance(value, str):
        return value.replace("{}", text)
    return {k: _filled(v, text) for k, v in value.items()} if isinstance(value, dict) else value


def _import(log: bytes, zone: int = 0, **options: object) -> Summary:
    given = {"last": LAST, "zone": _zone(zone), **options}
    return import_log(io.BytesIO(log), None, Options(**given))  # type: ignore[arg-type]


def _zone(hours: int) -> object:
    from datetime import timezone

    return timezone(timedelta(hours=hours))


def _one_session(log: bytes, zone: int = 0) -> None:
    summary = _import(log, zone)
    assert (summary.kind, summary.sessions, summary.unclear) == ("postfix", 1, 0)
    assert summary.not_understood == 0
    assert list(summary.days) == ["2026-11-24"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(("form", "zone"), FORMS.items())
def test_a_session_is_the_same_in_every_form(form: str, zone: int, end: bytes) -> None:
    lines = [form.replace("{}", text).encode() for text in TEXTS]
    _one_session(b"".join(line + end for line in lines), zone)
    for line in lines[:1]:
        stamp = (bare(line) or b"").split(b" postfix/smtp[15]: ")[0].rpartition(b" ")[0]
        assert stamp.decode() in {
            "Nov 24 02:48:56", "2026-11-24T02:48:56", "2026-11-24T02:48:56Z",
            "2026-11-24T02:48:56+00:00", "2026-11-24T03:48:56+01:00", "2026-11-24T03:48:56+0100",
            "2026-11-24T03:48:56",
        }  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_a_session_is_the_same_in_json(name: str) -> None:
    lines = [json.dumps(_filled(KEYS[name], text)) for text in TEXTS]
    _one_session("".join(f"{line}\n" for line in lines).encode())


def _journal(style: str) -> bytes:
    made = b""
    for text in TEXTS:
        entry = {**ENTRY, "MESSAGE": text}
        if style == "json":
            made += json.dumps(entry).encode() + b"\n"
        elif style == "json-sse":
            made += b"data: " + json.dumps(entry).encode() + b"\n\n"
        elif style == "json-seq":
            made += b"\x1e" + json.dumps(entry).encode() + b"\n"
        elif style == "json-pretty":
            made += json.dumps(entry, indent="\t").encode() + b"\n"
        elif style == "verbose":
            made += b"Tue 2026-11-24 02:48:56.123456 UTC [s=6c7c6013a2;i=1;b=a]\n"
            made += b"".join(f"    {k}={v}\n".encode() for k, v in entry.items() if k[:2] != "__")
        elif style == "export":
            made += b"".join(f"{k}={v}\n".encode() for k, v in entry.items()) + b"\n"
        else:  # values with their lengths
            entry["_CMDLINE"] = "a\n\n__CURSOR=x\nb"
            for key, value in entry.items():
                data = value.encode()
                made += key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
            made += b"\n"
    return made


@pytest.mark.parametrize(
    "style",
    ["json", "json-sse", "json-seq", "json-pretty", "verbose", "export", "export-binary"],
)
def test_a_session_is_the_same_from_the_journal(style: str) -> None:
    log = _journal(style)
    if style == "export-binary":  # the first field has its length in front only in our test
        log = b"__CURSOR=s=a;i=0\n" + log.partition(b"\n")[2].partition(b"\n")[2]
    _one_session(log)


def test_what_a_person_wrote_into_the_journal_is_no_word_of_a_mail_server() -> None:
    log = _journal("json").replace(b'"_UID": "101"', b'"_UID": "1000"')
    with pytest.raises(LogError):
        _import(log)
    assert _import(log, kind="postfix").sessions == 0
    mine = _journal("verbose").replace(b"_UID=101", b"_UID=1000")
    assert _import(mine, kind="postfix").sessions == 0


def _cut(line: str, size: int) -> list[str]:
    return [line[at : at + size] for at in range(0, len(line), size)]


def test_lines_that_a_container_runtime_has_cut_are_joined() -> None:
    cri, docker = [], []
    for text in TEXTS:
        pieces = _cut(BSD.replace("{}", text), 40)
        for piece in pieces:
            last = piece is pieces[-1]
            when = "2026-11-24T02:48:56.123456789Z"
            cri.append(f"{when} stdout {'F' if last else 'P'} {piece}\n")
            cri.append(f"{when} stderr P hello\n")
            told = {"log": piece + "\n" * last, "stream": "stdout", "time": when}
            docker.append(json.dumps(told) + "\n")
    _one_session("".join(cri).encode())
    _one_session("".join(docker).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda log: b"\xef\xbb\xbf" + log,
        lambda log: b"\x00" * 5000 + log,
        lambda log: log.replace(b"\n", b"\n\x00\x00", 1),
        lambda log: log.decode().encode("utf-16"),
        lambda log: log.decode().encode("utf-16-be"),
        lambda log: log.replace(b"\n", b"\n\n  \n"),
    ],
)
def test_bytes_that_are_no_text_hide_nothing(change: object) -> None:
    log = "".join(BSD.replace("{}", text) + "\n" for text in TEXTS).encode()
    _one_session(change(log))  # type: ignore[operator]


def test_forms_may_be_mixed() -> None:
    """A host's syslog has its own lines and its containers', whichever way they come."""
    own = "".join(f"Nov 24 02:48:5{n % 10} host sshd[{n}]: a\n" for n in range(40))
    head = "Nov 24 02:48:56 host postfix[868]: "
    text = own + "".join(head + BSD.replace("{}", text) + "\n" + own for text in TEXTS)
    _one_session(text.encode())


EXIM = (
    "2026-11-24 02:48:56 1xWlKK-000000001YO-00EX => bob@bob.example R=r T=t "
    'H=mx.bob.example [192.0.2.25] X=TLS1.3:A:256 CV=yes C="250 taken"'
)


@pytest.mark.parametrize(
    ("form", "zone"),
    [
        ("{}", 0),
        ("exim-1  | {}", 0),
        ("2026-11-24T02:48:56.1Z stdout F {}", 5),
        ("2026-11-24T02:48:56.1Z {}", 5),
        ('{"log":"{}\\n","stream":"stdout","time":"2026-11-24T02:48:56.1Z"}', 5),
        ("Nov 24 02:48:56 host exim[7]: {}", 0),
        ("Nov 24 02:48:56 host 4387585e3a11[7]: {}", 0),
        ("<22>1 2026-11-24T02:48:56Z host exim 7 - - {}", 5),
        ("2026-11-24 02:48:56 host exim[7]: {}", 0),
        ("Nov 24 02:48:56 host mail.info exim[7]: {}", 0),
    ],
)
@pytest.mark.parametrize("timed", [True, False])
def test_exim_in_every_form(form: str, zone: int, timed: bool) -> None:
    line = EXIM if timed else EXIM[20:]
    if not timed and "exim" not in form.replace("exim-1", ""):
        return  # without a time of its own it comes by syslog
    line = line.replace('"', '\\"') if form.startswith('{"') else line
    summary = _import(form.replace("{}", line).encode() + b"\n", zone)
    assert (summary.kind, summary.sessions, list(summary.days)) == ("exim", 1, ["2026-11-24"])


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (b"\n".join(text.encode() for text in TEXTS) + b"\n", "journalctl"),  # -o cat
        (b"[ 1234.567890] alice postfix/smtp[15]: x\n" * 30, "journalctl"),  # -o short-monotonic
        (b"hello\n" * 30, "of the first 30 lines 0 were understood, and 'hello' was not"),
        (b"LPKSHHRH\x00\x00" * 30, "-o export | smtp-sts report import-log -"),
        (b"Nov 24 02:48:56 alice sshd[1]: x\n" * 30, "lines of sshd; if theirs come later"),
        (b"lip 24 02:48:56 alice postfix/smtp[15]: x\n" * 30, "0 were understood"),  # June or July
    ],
)
def test_what_is_not_understood_is_said_with_what_was_seen_and_is_not_counted(
    log: bytes, said: str
) -> None:
    with pytest.raises(LogError) as caught:
        _import(log)
    assert said in str(caught.value)


def test_a_log_that_is_none_for_the_most_part_is_not_marked_as_counted() -> None:
    log = "".join(BSD.replace("{}", text) + "\n" for text in TEXTS).encode() * 2000
    summary = _import(log + b"no log\n" * 20_000)
    assert "of 26,000 lines 6,000 were understood, and 'no log' was not" in summary.trouble


@pytest.mark.parametrize(
    "line",
    [
        "Nov 24 02:48:56 alice sshd[1]: " + BSD,
        "Nov 24 02:48:56 alice webapp[1]: <22>" + BSD,
        "Nov 24 02:48:56 alice postfix/smtpd[1]: " + BSD,
        "Nov 24 02:48:56 alice kernel: " + BSD,
        "2026-11-24 02:48:56 H=(x) [192.0.2.6] " + BSD,
        "2026-11-24 02:48:56 SMTP syntax error in: " + BSD,
        "<22>1 2026-11-24T02:48:56Z alice sshd 1 - - " + BSD,
        '{"__REALTIME_TIMESTAMP":"1795488536123456","SYSLOG_IDENTIFIER":"web","MESSAGE":"'
        + BSD + '"}',
        '{"time":"2026-11-24T02:48:56Z","program":"web","pid":"1","message":"' + BSD + '"}',
    ],
)  # fmt: skip
def test_law_5_text_of_a_program_that_carries_no_logs_is_text(line: str) -> None:
    log = "".join(line.replace("{}", text) + "\n" for text in TEXTS).encode()
    with contextlib.suppress(LogError):
        assert _import(log, kind="postfix").sessions == 0


_pieces = st.sampled_from(
    [BSD, "<22>1 ", "2026-11-24T02:48:56Z ", "{", "}", '{"log":"', "\x1e", "__CURSOR=x\n", "\n",
     "postfix-1  | ", "stdout F ", "postfix[1]: ", "Tue ", "[s=", "MESSAGE=x", "MESSAGE\n", "\x00"]
)  # fmt: skip


@given(st.lists(st.one_of(_pieces, st.text(max_size=6)), max_size=12))
def test_any_line_is_taken(pieces: list[str]) -> None:
    form = LogLines()
    for _ in range(2):
        for line in form.lines(Lines().feed("".join(pieces).encode("utf-8", "replace") + b"\n")):
            assert b"\n" not in line
    form.finish()
    assert form.understood <= form.seen


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_packed_log_of_containers(pack: object, tmp_path: Path) -> None:
    log = "".join(json.dumps(_filled(KEYS["log"], text)) + "\n" for text in TEXTS).encode()
    path = tmp_path / "x.log.gz"
    path.write_bytes(pack(log))  # type: ignore[operator]
    config = tmp_path / "c.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/s.db"\n')
    command = ["--config", str(config), "report", "import-log", "--dry-run", "--json", str(path)]
    assert json.loads(CliRunner().invoke(main, command).stdout)["sessions"] == 1
