"""A mail taken apart: its header fields and the contents of its parts. No I/O.

Promises: `leaves_of` refuses what is beyond `bounds` with `EnvelopeError`, before or while it is
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
from collections.abc import Iterator
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
_TOKEN: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/]+")
#: Names of header fields that some write without their hyphens.
_HYPHENS: Final = {
    "contenttype": "Content-Type",
    "contenttransferencoding": "Content-Transfer-Encoding",
    "contentdisposition": "Content-Disposition",
}
#: What a mail within a mail must not be encoded by (RFC 2046 section 5.2.1), and is.
_PACKING: Final = ("base64", "quoted-printable")
#: The line before each mail of an mbox (RFC 4155): it has a time of day in it.
_MBOX_LINE: Final = re.compile(
    rb"(?:\A|(?<=\n\n)|(?<=\n\r\n))From [^\n]{0,200}[0-9]:[0-9][^\n]{0,200}\n"
)


class Budget:
    """What of one file was met so far; `odd` has sentences on what was odd about it."""

    def __init__(self) -> None:
        self.parts = 0
        self.headers = 0
        self.characters = 0
        self.line_ends = 0
        self.delimiters = 0
        self.odd: dict[str, None] = {}


class Part(email.message.Message):
    """A mail or one part of it, counted while it is parsed."""

    def __init__(self, budget: Budget, policy: Any = email.policy.compat32) -> None:
        super().__init__(policy)
        self._budget = budget
        self.level = 0
        budget.parts += 1
        if budget.parts > MAX_PARTS:
            raise EnvelopeError("mail-parts", f"the mail has more than {MAX_PARTS} parts")

    def attach(self, payload: Any) -> None:
        """Take a part in, no deeper than can be."""
        if isinstance(payload, Part):
            payload.level = self.level + 1
            if payload.level > MAX_MIME_DEPTH:
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
        if meant := _HYPHENS.get(name.lower()):
            budget.odd[f"{meant.replace('-', '')}: its name is {meant}"] = None
            name = meant
        if name.lower().startswith("content"):
            value = value[:MAX_CONTENT_FIELD]
        super().set_raw(name, value)

    def get_content_maintype(self) -> str:
        """As the parser asks: a mail within a mail that is encoded is no part that it can read."""
        kind = super().get_content_maintype()
        return "application" if kind == "message" and self.encoding() in _PACKING else kind

    def fields(self, name: str) -> list[str]:
        """The header fields of a name, each on one line, from the top."""
        found = (str(value)[:_SHOWN] for value in self.get_all(name, []))
        return [clean(text.encode("latin-1", "replace").decode("utf-8", "replace"), _SHOWN)
                for text in found]  # fmt: skip

    def field(self, name: str) -> str:
        """A header field on one line, "" where there is none. Of several the lowest: a signature
        covers that one first (RFC 6376 section 5.4.2), and what came later stands above it."""
        return self.fields(name)[-1] if name in self else ""

    def file_name(self) -> str:
        """The name of the part's file, "" where there is none."""
        try:
            name = self.get_filename("")
        except (ValueError, LookupError, TypeError, AttributeError):  # RFC 2231 gone wrong
            return ""
        return clean(name, _SHOWN) if isinstance(name, str) else ""

    def encoding(self) -> str:
        """The Content-Transfer-Encoding, without comments."""
        word = _TOKEN.search(_uncommented(str(self.get("content-transfer-encoding", ""))))
        return word[0].lower() if word else ""

    def content(self) -> bytes:
        """The decoded content; base64 is read as far as it can be (Google's, for one)."""
        payload = self.get_payload()
        if not isinstance(payload, str):
            return b""
        data = payload.encode("latin-1", "replace")
        encoding = self.encoding()
        if encoding == "base64":
            return from_base64(data)
        return quopri.decodestring(data) if encoding == "quoted-printable" else data

    def is_mail(self) -> bool:
        """Whether it is a mail that the parser took for a file: encoded, or attached as one."""
        return (
            super().get_content_maintype() == "message"
            or self.file_name().lower().endswith(".eml")
        ) and not self.is_multipart()  # fmt: skip


class Leaf:
    """A part without parts; the mail that it stands in, and the outermost around that."""

    def __init__(self, part: Part, mail: Part, outer: Part) -> None:
        self.part = part
        self.mail = mail
        self.outer = outer


def _uncommented(text: str) -> str:
    """A field without its comments, which may be nested (RFC 5322 section 3.2.2)."""
    kept, depth, escaped = [], 0, False
    for character in text[:MAX_CONTENT_FIELD]:
        if depth and escaped:
            escaped = False
        elif depth and character == "\\":
            escaped = True
        elif character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
        elif not depth:
            kept.append(character)
    return "".join(kept)


def from_base64(data: bytes) -> bytes:
    """What base64 stands for, as far as it can be read."""
    # What follows the padding is no part of it; of a cut end what is whole counts.
    data = _NOT_BASE64.sub(b"", data.partition(b"=")[0])
    data = data[: len(data) - 1] if len(data) % 4 == 1 else data
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        return b""


def mails_of(data: bytes) -> list[bytes]:
    """The mails of an mbox (RFC 4155), or the one mail that it is. Raises EnvelopeError."""
    if len(data) > MAX_MAIL:
        raise EnvelopeError("mail-too-large", f"{len(data)} bytes; a mail has {MAX_MAIL} at most")
    starts = [line.start() for line in _MBOX_LINE.finditer(data)]
    if not starts or starts[0]:
        return [data]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def leaves_of(data: bytes, budget: Budget) -> list[Leaf]:
    """The parts of a mail that have no parts themselves. Raises EnvelopeError."""
    message = _parsed(data, budget)
    return list(_leaves(message, message, message, budget))


def _parsed(data: bytes, budget: Budget) -> Part:
    if len(data) > MAX_MAIL:
        raise EnvelopeError("mail-too-large", f"{len(data)} bytes; a mail has {MAX_MAIL} at most")
    budget.line_ends += data.count(b"\n") + data.count(b"\r")
    if budget.line_ends > MAX_LINE_ENDS:
        raise EnvelopeError("mail-lines", f"more than {MAX_LINE_ENDS} line ends in the mail")
    budget.delimiters += data.count(b"\n--") + data.count(b"\r--")
    if budget.delimiters > MAX_DELIMITERS:
        raise EnvelopeError("mail-parts", f"more than {MAX_DELIMITERS} lines that begin with --")

    def part(policy: Any = email.policy.compat32) -> Part:
        return Part(budget, policy)

    # Latin-1 keeps every byte. compat32: the newer policies parse header fields, and raise what
    # they like on the way.
    parser = email.parser.Parser(part, policy=email.policy.compat32)
    try:
        message = parser.parsestr(data.decode("latin-1"))
    except RecursionError:
        raise EnvelopeError("mail-too-deep", "the mail's parts are nested too deeply") from None
    assert isinstance(message, Part)
    return message


def _leaves(part: Part, mail: Part, outer: Part, budget: Budget) -> Iterator[Leaf]:
    """Those of a part. `mail` is the innermost that it stands in."""
    payload = part.get_payload()
    if part.is_multipart() and isinstance(payload, list):
        is_mail = part.get_content_maintype() == "message"
        for child in payload:
            if isinstance(child, Part):
                within = child if is_mail and child.field("From") else mail
                yield from _leaves(child, within, outer, budget)
        return
    if part.is_mail() and part is not outer:
        content = part.content()
        if part.level >= MAX_MIME_DEPTH:
            raise EnvelopeError("mail-too-deep", "the mail's parts are nested too deeply")
        inner = _parsed(content.lstrip(), budget)
        inner.level = part.level + 1
        yield from _leaves(inner, inner if inner.field("From") else mail, outer, budget)
        return
    yield Leaf(part, mail, outer)
