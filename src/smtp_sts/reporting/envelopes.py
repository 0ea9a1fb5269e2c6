"""What a transport of log lines puts around them, taken off: heads of containers and journals.

A line comes out as the readers of Postfix's and Exim's logs take it: syslog's `STAMP host
program[pid]: text`, or as Exim writes it into a file of its own. Around it may stand, in several
layers: the prefix of `docker compose logs` or `kubectl logs`, the JSON of docker's files, of
`journalctl -o json` and of rsyslog's templates, the head of the Kubernetes CRI, syslog's priority,
the head of RFC 5424, the heads of `journalctl -o short-*` in any language that is known for
certain, and the head of a syslog that carries a container's lines.

Promises: of several times the innermost with a zone is taken, else the innermost. Text of a program
that carries no logs is never taken for a head (law 5): only what `_CARRIER` names carries others'
lines. Must not: keep anything of a line, or do I/O.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from smtp_sts.reporting.journal import by_a_person, journal_line
from smtp_sts.reporting.lines import STAMP
from smtp_sts.tlsrpt.names import clean

#: Layers that are taken off one line.
_MAX_LAYERS: Final = 5

_NAME: Final = rb"([A-Za-z0-9_.@/+-]{1,200})"
_PROGRAM: Final = rb"(?:[!-.0-~]+\.(?:service|scope)/)?" + _NAME + rb"(?:\[([0-9]{1,10})\])?: "
#: Solaris
_MESSAGE_ID: Final = rb"\[ID [0-9]+ [a-z0-9.]+\] "
#: syslog as the readers take it; and Exim's own
SYSLOG: Final = re.compile(
    STAMP + rb" ([!-~]{1,255}) " + _NAME + rb"(?:\[[0-9]{1,10}\])?: (?!" + _MESSAGE_ID + rb")"
)
EXIM: Final = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?: [+-][0-9]{4})? "
)
_LEVEL: Final = (
    rb"(?:<?(?:[a-z0-9]{2,9}\.)?(?:debug|info|notice|warn|warning|err|error|crit|alert|emerg)>?|"
    rb"DEBUG|INFO|NOTICE|WARN|WARNING|ERR|ERROR|CRIT|ALERT|EMERG)"
)
#: times in all forms; the name of a zone that is not UTC (journalctl -o short-full) says nothing
TIME: Final = re.compile(
    rb"((?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?"
    rb"(?:([0-9]{4})[-/]([0-9]{2})[-/]([0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,][0-9]+)?"
    rb"(?: ?(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})(?= )|(?(1)(?: [A-Z]{2,5}(?= ))?))?"
    rb"|(?:([0-9]{4}) )?([^\x00-\x20\[\]{}<>:=]{2,16}) {1,2}([0-9]{1,2}) (?:([0-9]{4}) )?"
    rb"([0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,][0-9]+)?"
    rb"|([0-9]{9,10})\.[0-9]{3,9}) "
)
_HEAD: Final = re.compile(
    rb"(?:" + _LEVEL + rb" )?(?:(?!" + _LEVEL + rb" )([!-~]{0,254}[!-9;-~]) )?"
    rb"(?:" + _LEVEL + rb":? )?" + _PROGRAM + rb"(?:" + _MESSAGE_ID + rb")?"
)
_RFC5424: Final = re.compile(
    rb"1 (\S+) (\S{1,255}) " + _NAME + rb" ([0-9]{1,10}|-) \S{1,32} "
    rb"(?:-|(?:\[(?:[^\]\"\\]|\"(?:[^\"\\]|\\.)*\")*\])+) ?(?:\xef\xbb\xbf)?"
)
_PRIORITY: Final = re.compile(rb"<[0-9]{1,3}>")
_COLOUR: Final = re.compile(rb"\x1b\[[0-9;]{0,12}m")
#: `docker compose logs`: name | ; `kubectl logs --prefix`: [pod/name/container]
_PREFIX: Final = re.compile(rb"[A-Za-z0-9_.-]{1,128} *\| |\[pod/[A-Za-z0-9_./-]{1,300}\] ")
CRI: Final = re.compile(rb"(\S{20,40}) (stdout|stderr) ([FP])(?::[A-Za-z]+)? ")
#: Programs whose lines are others' lines, by their name or a part of it: containers, and what runs
#: them. Everybody else's text is text.
_CARRIER: Final = re.compile(
    rb"(?:.*/)?(?:[0-9a-f]{12}|[0-9a-f]{64})|docker/.*|(?:[^/]*[._-])?(?:postfix|exim4?|docker|"
    rb"dockerd|compose|podman|conmon|containerd|crio|k3s|mailcow|mailserver|mailu)(?:[._-][^/]*)?"
)
#: Months as glibc's locales abbreviate them, where all languages agree on what they mean. English
#: is what syslog writes; journalctl writes the operator's language.
_MONTHS: Final[Mapping[str, int]] = {
    word: number
    for number, words in enumerate((
        "jan jän janv ene gen tammi sty oca led янв січ",
        "feb fev févr helmi lut şub úno фев лют",
        "mar mär mars mrt maalis bře мар бер",
        "apr april abr avr avril huhti kwi nis dub апр кві",
        "may mai mei mag maj touko kvě май мая тра",
        "jun juni juin giu kesä cze haz čen июн чер",
        "jul juli juil lug heinä tem čec июл лип",
        "aug ago août elo sie ağu авг сер",
        "sep sept set syys wrz eyl zář сен вер",
        "oct okt out ott loka paź eki říj окт жов",
        "nov marras kas ноя лис",
        "dec dez dic déc des joulu gru ara pro дек гру",
    ), 1)
    for word in words.split()
}  # fmt: skip
_ENGLISH: Final = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
#: Names that JSON lines give text, time, program, process and host.
_TEXTS: Final = ("log", "message", "msg", "line", "text", "short_message", "MESSAGE")
_TIMES: Final = ("time", "@timestamp", "timestamp", "timereported", "timegenerated", "ts")
_PROGRAMS: Final = ("syslogtag", "programname", "program", "app-name", "appname", "ident")
_PIDS: Final = ("procid", "pid", "process_id")
_HOSTS: Final = ("hostname", "host", "source")


def bare(line: bytes) -> bytes | None:
    """A line without what stands around it; None where it is not understood, b"" where it is, and
    no line of a mail server's (a person's entry of the journal)."""
    stamp, zoned, host = b"", False, b""
    text = line
    for _ in range(_MAX_LAYERS):
        text = _prefixes(text)
        head, when = None, None
        if text.startswith(b"{"):
            found = _of_json(text)
            if found is None:
                return None
            when, text = found
            if not text:
                return b""
        elif head := CRI.match(text):
            when, text = _iso(head[1]), text[head.end() :]
        elif head := _RFC5424.match(text):
            when = _iso(head[1])
            host, program, pid = head[2], head[3], head[4].replace(b"-", b"0")
        elif time := TIME.match(text):
            when, head = canonical(time), _HEAD.match(text, time.end())
            exim = EXIM.match(text) is not None
            if head is None or (exim and head[3] is None):
                if exim and not carried(text[time.end() :]):
                    return _exim(text, stamp if zoned else b"", host)
                head, text = None, text[time.end() :]  # `docker logs -t`
            else:
                host, program, pid = head[1] or host, head[2], head[3] or b"0"
        else:
            return None
        if when is not None and (when[1] or not zoned):
            stamp, zoned = when
        if head is None or head.re is CRI:
            continue
        text = text[head.end() :]
        if not (_CARRIER.fullmatch(program) and carried(text)):
            if not stamp:
                return None
            return b"%b %b %b[%b]: %b" % (stamp, host or b"-", program, pid, text)
    return None


def is_carrier(program: bytes) -> bool:
    """Whether a program's lines may be others' lines."""
    return _CARRIER.fullmatch(program) is not None


def carried(text: bytes) -> bool:
    """Whether a text is another line with a head of its own."""
    text = _prefixes(text)
    if text.startswith(b"{"):
        return _of_json(text) is not None
    if _RFC5424.match(text):
        return True
    found = TIME.match(text)
    return found is not None and canonical(found) is not None


def _exim(text: bytes, stamp: bytes, host: bytes) -> bytes:
    return b"%b %b exim[0]: %b" % (stamp, host or b"-", text) if stamp else text


def _prefixes(text: bytes) -> bytes:
    """Without colours, carriage returns, marks of byte order, priorities, containers' names."""
    if b"\x1b" in text:
        text = _COLOUR.sub(b"", text)
    text = text.lstrip(b"\xef\xbb\xbf\xff\xfe \t\x1e").rstrip(b"\r\n")
    if found := _PREFIX.match(text):
        text = text[found.end() :]
    if found := _PRIORITY.match(text):
        text = text[found.end() :]
    if text.startswith(b"data: {"):  # journalctl -o json-sse
        text = text[6:]
    return text.lstrip(b" ")


def canonical(found: re.Match[bytes]) -> tuple[bytes, bool] | None:
    """A time (of `TIME`) as the readers take it, and whether it has a zone; None for none."""
    if found[2]:
        day = b"%b-%b-%bT%b" % found.group(2, 3, 4, 5)
        zone = found[6] or b""
        return day + (b"Z" if zone in {b"UTC", b"GMT"} else zone), bool(zone)
    if found[12]:
        return _epoch(int(found[12])), True
    word = found[8].decode("utf-8", "replace").lower().removesuffix(".")
    number = _MONTHS.get(word)
    if number is None and word.endswith(("\u6708", "\uc6d4")):  # 11月, 11월
        number = int(word[:-1]) if word[:-1].isdecimal() and 1 <= int(word[:-1]) <= 12 else None
    if number is None:
        return None
    year = found[7] or found[10]
    if year:
        return b"%b-%02d-%02dT%b" % (year, number, int(found[9]), found[11]), False
    return b"%b %2d %b" % (_ENGLISH[number - 1], int(found[9]), found[11]), False


def _epoch(seconds: float) -> bytes:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}".encode()


def _iso(text: bytes) -> tuple[bytes, bool] | None:
    found = TIME.match(text + b" ")
    return canonical(found) if found is not None and found[2] else None


def _of_json(text: bytes) -> tuple[tuple[bytes, bool] | None, bytes] | None:
    """Time and text of a line of JSON; the text is a line of syslog's where the JSON is one."""
    try:
        entry = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    if not isinstance(entry, dict):
        return None
    if "__REALTIME_TIMESTAMP" in entry:
        if by_a_person(text):
            return None, b""
        found = journal_line(text)
        return None if found is None else (None, found[0])
    said, when = _first(entry, _TEXTS), _moment(entry)
    if not said:
        return None
    line = said.rstrip("\n").lstrip(" ").replace("\n", " ").encode("utf-8", "replace")
    program = _first(entry, _PROGRAMS).removesuffix(":")
    if not program:
        return when, line
    if when is None:
        return None
    if not program.endswith("]"):
        pid = next((str(entry[name]) for name in _PIDS if name in entry), "0")
        program += f"[{pid if pid.isdecimal() else 0}]"
    head = f"{_first(entry, _HOSTS) or '-'} {program}: ".encode("utf-8", "replace")
    return None, when[0] + b" " + head + line


def _first(entry: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((entry[n] for n in names if isinstance(entry.get(n), str)), "")


def _moment(entry: Mapping[str, Any]) -> tuple[bytes, bool] | None:
    value = next((entry[name] for name in _TIMES if name in entry), None)
    if isinstance(value, str):
        return _iso(value.encode("utf-8", "replace"))
    if isinstance(value, int | float) and 1e8 < value < 1e19:
        while value > 1e11:  # milli-, micro- or nanoseconds
            value /= 1000
        return _epoch(value), True
    return None


def programs(lines: Iterable[bytes]) -> Counter[str]:
    """Whose lines of syslog these are, for people."""
    found: Counter[str] = Counter()
    for line in lines:
        if head := SYSLOG.match(line):
            found[clean(head[5].decode("ascii"), 60)] += 1
    return found
