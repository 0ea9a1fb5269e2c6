"""The lines of one log, in whatever form, as the readers of Postfix's and Exim's logs take them.

Promises: a log in plain syslog, or of Exim's own, costs next to nothing; others are unwrapped line
by line (`envelopes`), joined where a container's runtime has cut them, and put together where an
entry stands on several (`journalctl -o export`, `json-pretty`, `verbose`). What is not understood
is counted, and an example kept. Memory is bounded. Must not: do I/O.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from smtp_sts.reporting.envelopes import (
    CRI,
    EXIM,
    SYSLOG,
    TIME,
    bare,
    canonical,
    carried,
    is_carrier,
)
from smtp_sts.reporting.journal import Export, entry_line, is_person
from smtp_sts.reporting.lines import MAX_LINE
from smtp_sts.tlsrpt.names import clean

#: Lines of a block that are looked at to tell whether it has layers.
_SAMPLE: Final = 16
#: Beginnings of lines that are remembered as syslog's or Exim's own.
_MAX_STARTS: Final = 5000
#: Bytes of an entry that stands on several lines.
_MAX_ENTRY: Final = 256 * 1024
#: Streams of a container.
_MAX_STREAMS: Final = 4
#: how a line begins that may be syslog's or Exim's
_START: Final = re.compile(
    rb"[A-Z][a-z][a-z] [ 0-9][0-9] [0-9]{2}:[0-9]|[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]"
)
_EXPORT: Final = re.compile(rb"__CURSOR=|__REALTIME_TIMESTAMP=")
_VERBOSE: Final = re.compile(rb"\S{2,12} [0-9]{4}-[0-9]{2}-[0-9]{2} \S+ \S+ \[s=")
#: What stands before a text and is none of it: marks of byte order, NULs after a crash, or of
#: UTF-16.
_BEFORE: Final = b"\xef\xbb\xbf\xff\xfe\r \t"


class LogLines:
    """Takes the lines of a log block by block."""

    def __init__(self) -> None:
        #: lines (or entries) that were no blank ones, and those of them that were understood
        self.seen = 0
        self.understood = 0
        #: the first line that was not, for people
        self.example = ""
        self._starts: set[bytes] = set()
        #: pieces of lines that are not whole yet, by stream
        self._pieces: dict[bytes, bytes] = {}
        self._kind: Literal["", "export", "json", "verbose"] = ""
        self._entry: list[bytes] = []
        self._size = 0
        self._export = Export()

    @property
    def few(self) -> bool:
        """Whether less than half of the lines were understood."""
        return self.seen > 2 * self.understood

    def lines(self, lines: list[bytes]) -> list[bytes]:
        """What the readers take of these lines."""
        if not self._kind and not self._pieces and self._plain(lines):
            self.seen += len(lines)
            self.understood += len(lines)
            return lines
        return [made for line in lines if (made := self._one(line))]

    def finish(self) -> list[bytes]:
        """The log ends: what is left of an entry that has no end of its own."""
        made = None
        if self._kind == "verbose":
            made = self._verbose()
        elif self._kind == "export":
            made = self._exported(self._export.end())
        return [made] if made else []

    def _plain(self, lines: list[bytes]) -> bool:
        """Whether all begin as syslog's or Exim's, and what is looked at has no more layers. One
        that has is found by the reader, which calls `bare` for what it does not know."""
        starts = {line[:11] for line in lines} - self._starts
        if not all(map(_START.match, starts)) or any(map(_is_layered, lines[:_SAMPLE])):
            return False
        if len(self._starts) < _MAX_STARTS:
            self._starts |= starts
        return True

    def _one(self, line: bytes) -> bytes | None:
        if self._kind:
            return self._more(line)
        text = line.replace(b"\x00", b"").lstrip(_BEFORE).rstrip(b"\r")
        if not text or text.isspace():
            return None
        if _EXPORT.match(text):
            self._kind = "export"
        elif text == b"{":
            self._kind = "json"
        elif _VERBOSE.match(text):
            self._kind = "verbose"
        if self._kind:
            return self._more(text)
        if not _is_layered(text):
            return self._told(text, text)
        whole = self._joined(text)
        return None if whole is None else self._told(whole, bare(whole))

    def _told(self, line: bytes, found: bytes | None) -> bytes | None:
        self.seen += 1
        if found is not None:
            self.understood += 1
        elif not self.example:
            self.example = clean(line[:200].decode("utf-8", "replace"), 200)
        return found

    def _joined(self, text: bytes) -> bytes | None:
        """The line, with the pieces before it; None for a piece that is not the last."""
        if cri := CRI.match(text):
            before = self._pieces.pop(cri[2], b"")
            rest = before + text[cri.end() :]
            if cri[3] == b"F":
                return text[: cri.end()] + rest
            self._keep(cri[2], rest)
            return None
        if not text.startswith(b'{"log":'):
            return text
        try:
            entry = msgspec.json.decode(text, type=_DockerEntry)
        except msgspec.DecodeError:
            return text
        stream = entry.stream.encode("utf-8", "replace")
        said = self._pieces.pop(stream, b"").decode("utf-8", "replace") + entry.log
        if said.endswith("\n"):
            return msgspec.json.encode(msgspec.structs.replace(entry, log=said))
        self._keep(stream, said.encode("utf-8", "replace"))
        return None

    def _keep(self, stream: bytes, piece: bytes) -> None:
        if len(piece) <= MAX_LINE and len(self._pieces) < _MAX_STREAMS:
            self._pieces[stream] = piece

    def _more(self, line: bytes) -> bytes | None:
        """Another line of an entry that has several."""
        if self._kind == "export":
            return self._exported(self._export.line(line))
        text = line.rstrip(b"\r")
        made = None
        if self._kind == "verbose" and _VERBOSE.match(text):
            made = self._verbose()
        self._size += len(text)
        if self._size <= _MAX_ENTRY:
            self._entry.append(text)
        if self._kind == "json" and text == b"}":
            whole = b" ".join(self._entry)
            self._kind, self._entry, self._size = "", [], 0
            made = self._told(whole, bare(whole))
        return made

    def _exported(self, fields: dict[bytes, bytes] | None) -> bytes | None:
        if fields is None:
            return None
        entry = entry_line(fields)
        return self._told(fields.get(b"MESSAGE", b""), None if entry is None else bare(entry))

    def _verbose(self) -> bytes | None:
        entry, self._entry, self._size = self._entry, [], 0
        time = TIME.match(entry[0]) if entry else None
        if time is None:
            return None
        when = canonical(time)
        fields: dict[bytes, bytes] = {}
        for line in entry[1:]:
            name, equals, value = line.strip().partition(b"=")
            if equals:
                fields.setdefault(name, value)
        if when is None or b"MESSAGE" not in fields:
            return self._told(entry[0], None)
        if is_person(fields.get(b"_UID", b"0")):
            return self._told(entry[0], b"")
        pid = fields.get(b"SYSLOG_PID") or fields.get(b"_PID") or b"0"
        host, name = fields.get(b"_HOSTNAME", b"-"), fields.get(b"SYSLOG_IDENTIFIER", b"")
        line = b"%b %b %b[%b]: %b" % (when[0], host, name, pid, fields[b"MESSAGE"])
        return self._told(line, bare(line))


class _DockerEntry(msgspec.Struct):
    """A line of docker's log files (the driver json-file)."""

    log: str
    stream: str = ""
    time: str = ""


def _is_layered(line: bytes) -> bool:
    if line[-1:] == b"\r" or b"\x00" in line:
        return True
    head = SYSLOG.match(line)
    if head is None:
        return EXIM.match(line) is None or bare(line) != line
    if b".service/" in head[5]:
        return True
    return is_carrier(head[5]) and carried(line[head.end() :])
