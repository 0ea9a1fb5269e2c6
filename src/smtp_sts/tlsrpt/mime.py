"""A mail taken apart: its header fields and the contents of its parts. No I/O.

Promises: `parts_of` refuses what is beyond `bounds` with `EnvelopeError`, before or while it is
parsed; nothing else comes out, whatever bytes go in. Must not: know what a report is, or decode a
text by a character set that a stranger names (some of Python's take quadratic time).
"""

from __future__ import annotations

import binascii
import email.message
import email.parser
import email.policy
import quopri
import re
from typing import Any, Final

from smtp_sts.tlsrpt.bounds import (
    MAX_CONTENT_FIELD,
    MAX_DELIMITERS,
    MAX_HEADER_TEXT,
    MAX_HEADERS,
    MAX_LINE_ENDS,
    MAX_MAIL,
    MAX_MIME_DEPTH,
    MAX_PARTS,
)
from smtp_sts.tlsrpt.errors import EnvelopeError
from smtp_sts.tlsrpt.names import clean

#: Characters of a header field that are shown, at most.
_SHOWN: Final = 1024
_COMMENT: Final = re.compile(r"\([^()]*\)")
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/]+")


class _Budget:
    """What of one mail was met so far."""

    def __init__(self) -> None:
        self.parts = 0
        self.headers = 0
        self.characters = 0


class Part(email.message.Message):
    """A mail or one part of it, counted while it is parsed."""

    def __init__(self, budget: _Budget, policy: Any = email.policy.compat32) -> None:
        super().__init__(policy)
        self._budget = budget
        self._level = 0
        budget.parts += 1
        if budget.parts > MAX_PARTS:
            raise EnvelopeError("mail-parts", f"the mail has more than {MAX_PARTS} parts")

    def attach(self, payload: Any) -> None:
        """Take a part in, no deeper than can be."""
        if isinstance(payload, Part):
            payload._level = self._level + 1
            if payload._level > MAX_MIME_DEPTH:
                raise EnvelopeError("mail-too-deep", "the mail's parts are nested too deeply")
        super().attach(payload)

    def set_raw(self, name: str, value: Any) -> None:
        """Take a header field in."""
        budget = self._budget
        budget.headers += 1
        budget.characters += len(name) + len(value)
        if budget.headers > MAX_HEADERS or budget.characters > MAX_HEADER_TEXT:
            raise EnvelopeError(
                "mail-headers",
                f"more than {MAX_HEADERS} header fields, or {MAX_HEADER_TEXT} characters of them",
            )
        if name.lower().startswith("content"):
            value = value[:MAX_CONTENT_FIELD]
        super().set_raw(name, value)

    def field(self, name: str) -> str:
        """A header field on one line, "" where there is none."""
        value = self.get(name, "")
        text = str(value)[:_SHOWN]
        return clean(text.encode("latin-1", "replace").decode("utf-8", "replace"), _SHOWN)

    def file_name(self) -> str:
        """The name of the part's file, "" where there is none."""
        try:
            name = self.get_filename("")
        except (ValueError, LookupError, TypeError, AttributeError):  # RFC 2231 gone wrong
            return ""
        return clean(name, _SHOWN) if isinstance(name, str) else ""

    def content(self) -> bytes:
        """The decoded content; base64 is read as far as it can be (Google's, for one)."""
        payload = self.get_payload()
        if not isinstance(payload, str):
            return b""
        data = payload.encode("latin-1", "replace")
        field = str(self.get("content-transfer-encoding", ""))
        encoding = _COMMENT.sub("", field).strip().lower()
        if encoding == "base64":
            return _base64(data)
        return quopri.decodestring(data) if encoding == "quoted-printable" else data


def _base64(data: bytes) -> bytes:
    # What follows the padding is no part of it; of a cut end what is whole counts.
    data = _NOT_BASE64.sub(b"", data.partition(b"=")[0])
    data = data[: len(data) - 1] if len(data) % 4 == 1 else data
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        return b""


def parts_of(data: bytes) -> tuple[Part, list[Part]]:
    """A mail, and those of its parts that have no parts themselves. Raises EnvelopeError."""
    if len(data) > MAX_MAIL:
        raise EnvelopeError("mail-too-large", f"{len(data)} bytes; a mail has {MAX_MAIL} at most")
    if data.count(b"\n") + data.count(b"\r") > MAX_LINE_ENDS:
        raise EnvelopeError("mail-lines", f"more than {MAX_LINE_ENDS} line ends in the mail")
    if data.count(b"\n--") + data.count(b"\r--") > MAX_DELIMITERS:
        raise EnvelopeError("mail-parts", f"more than {MAX_DELIMITERS} lines that begin with --")
    budget = _Budget()

    def part(policy: Any = email.policy.compat32) -> Part:
        return Part(budget, policy)

    # Latin-1 keeps every byte. compat32: the newer policies parse header fields, and raise what
    # they like on the way.
    parser = email.parser.Parser(part, policy=email.policy.compat32)
    try:
        message = parser.parsestr(data.decode("latin-1"))
    except RecursionError:
        raise EnvelopeError("mail-too-deep", "the mail's parts are nested too deeply") from None
    found = [one for one in message.walk() if isinstance(one, Part)]
    return found[0], [one for one in found if not one.is_multipart()]
