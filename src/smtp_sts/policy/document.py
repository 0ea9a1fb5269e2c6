"""Policy documents (RFC 8461 section 3.2). No I/O.

Promises: `Policy.parse` gives a valid policy or raises `PolicyError` with line, column and slug;
nothing else ever comes out. `Policy.parse(policy.render())` is the identity. A pattern that can
match no MX host is passed over, one that could inject voids the policy (law 5).
Example:

    version: STSv1
    mode: enforce
    mx: mail.example.com
    mx: *.example.net
    max_age: 604800
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from smtp_sts.policy import pattern
from smtp_sts.policy.errors import PolicyError, shown

Mode = Literal["enforce", "testing", "none"]

#: Section 3.3 suggests 64 kilobytes, bytes.
MAX_SIZE: Final = 64 * 1024
#: What `render` makes of a policy of that size: a blank and a CR more on each line, bytes.
MAX_RENDERED: Final = 2 * MAX_SIZE
#: Section 3.2: maximum value of max_age, seconds (a year). More is capped, not refused.
MAX_AGE: Final = 31557600

_MODES: Final[dict[str, Mode]] = {"enforce": "enforce", "testing": "testing", "none": "none"}
_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# A policy may have thousands of lines, of a stranger's choice: each of these reads it in one pass.
_FAULTY_LINE: Final = re.compile(
    rf"^(?!(?:[ \t]*|mx:[ \t]*(?:\*\.)?{pattern.DOMAIN_IN_LIST}[ \t]*"
    r"|(?!mx:)[A-Za-z0-9][A-Za-z0-9_.-]{0,31}:[^\x00-\x08\x0a-\x1f\x7f]*)\r?$)",
    re.ASCII | re.MULTILINE,
)
# Passed over: a pattern that section 3.2 allows and that matches no MX host, such as `mailhost`.
_MX: Final = re.compile(
    rf"^mx:[ \t]*((?:\*\.)?{pattern.NAME_IN_LIST})[ \t]*\r?$", re.ASCII | re.MULTILINE
)
_ANY_MX: Final = re.compile(r"^mx:[^\r\n]*", re.MULTILINE)
_FIELDS: Final = {
    name: re.compile(rf"^{name}:([^\r\n]*)", re.MULTILINE)
    for name in ("version", "mode", "max_age")
}


class Policy(msgspec.Struct, frozen=True):
    """A valid policy. `mx` holds lower-case patterns, each once; `max_age` is in seconds."""

    mode: Mode
    mx: tuple[str, ...]
    max_age: int
    version: str = "STSv1"

    @classmethod
    def parse(cls, body: bytes, *, limit: int = MAX_SIZE) -> Policy:
        """Read a policy document of at most `limit` bytes. Raises PolicyError."""
        return _parse(body, limit)

    def matches(self, host: str) -> bool:
        """Whether mail may go to this MX host (section 4.1)."""
        return any(p in self.mx for p in pattern.naming(host))

    def lines(self) -> tuple[str, ...]:
        """The policy as canonical lines, without line ends."""
        mx = (f"mx: {p}" for p in self.mx)
        return (f"version: {self.version}", f"mode: {self.mode}", *mx, f"max_age: {self.max_age}")

    def render(self) -> bytes:
        """The document to publish: CRLF line ends, as section 3.2 has them."""
        return "".join(f"{line}\r\n" for line in self.lines()).encode("ascii")


def _parse(body: bytes, limit: int) -> Policy:
    if len(body) > limit:
        raise PolicyError("policy-too-large", f"{len(body)} bytes; a policy has {limit} at most")
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise PolicyError(
            "policy-byte-order-mark",
            "the file begins with a byte-order mark: save it as plain UTF-8 without one",
            line=1,
            column=1,
        )
    try:
        text, undecoded = body.decode("utf-8"), None
    except UnicodeDecodeError as error:  # what is wrong before that line is told first
        begin = body.rfind(b"\n", 0, error.start) + 1
        text = body[:begin].decode("utf-8")
        undecoded = PolicyError(
            "policy-not-utf8",
            "not UTF-8",
            line=body.count(b"\n", 0, begin) + 1,
            column=error.start - begin + 1,
        )
    if fault := _FAULTY_LINE.search(text):
        end = text.find("\n", fault.start())
        line = text[fault.start() : end if end >= 0 else len(text)]
        raise _fault(line.removesuffix("\r"), text.count("\n", 0, fault.start()) + 1)
    if undecoded is not None:
        raise undecoded
    fields: dict[str, tuple[str, int]] = {}
    for name, line_of in _FIELDS.items():
        if found := line_of.search(text):  # of duplicates the first counts
            number = text.count("\n", 0, found.start()) + 1
            fields[name] = (found[1].strip(" \t"), number)
    mx = "\n".join(_MX.findall(text)).lower()
    policy = _build(fields, tuple(dict.fromkeys(mx.split("\n"))) if mx else ())
    if policy.mx or policy.mode == "none":
        return policy
    if passed := _ANY_MX.search(text):
        raise _fault(passed[0], text.count("\n", 0, passed.start()) + 1)
    raise PolicyError("policy-no-mx", f"mode {policy.mode} needs an mx line for each MX host")


def _fault(line: str, number: int) -> PolicyError:
    """What is wrong with a line that `_FAULTY_LINE` has found."""
    if control := _CONTROL.search(line):
        return PolicyError(
            "policy-control-character",
            f"control character {shown(control[0])}",
            line=number,
            column=control.start() + 1,
        )
    line = line.rstrip(" \t")
    name, _, value = line.partition(":")
    if name == "mx" and name != line:
        value = value.strip(" \t")
        try:
            pattern.check_pattern(value)
        except ValueError as error:
            return PolicyError(
                "policy-mx", f"mx {shown(value)} {error}", line=number, column=len(name) + 2
            )
    return PolicyError(
        "policy-line", f'{shown(line)} is no "key: value" line', line=number, column=1
    )


def _build(fields: dict[str, tuple[str, int]], mx: tuple[str, ...]) -> Policy:
    version, line = _required(fields, "version", "STSv1")
    if version != "STSv1":
        raise PolicyError(
            "policy-version", f"version {shown(version)} is not STSv1", line=line, column=10
        )
    mode, line = _required(fields, "mode", "enforce")
    if mode not in _MODES:
        raise PolicyError(
            "policy-mode",
            f"mode {shown(mode)} is none of enforce, testing, none",
            line=line,
            column=7,
        )
    age, line = _required(fields, "max_age", "604800")
    if not _NUMBER.fullmatch(age):
        raise PolicyError(
            "policy-max-age", f"max_age {shown(age)} is no number of seconds", line=line, column=10
        )
    return Policy(_MODES[mode], mx, min(int(age), MAX_AGE))


def _required(fields: dict[str, tuple[str, int]], name: str, example: str) -> tuple[str, int]:
    if name not in fields:
        slug = f"policy-no-{name.replace('_', '-')}"
        raise PolicyError(slug, f'no {name} line: add "{name}: {example}"')
    return fields[name]
