"""MX host patterns (RFC 8461 sections 3.2 and 4.1). No I/O.

Promises: a pattern that `check_pattern` lets through holds nothing but letters, digits, hyphens,
dots and one leading `*.`, so that it can stand in an MTA's reply (law 5).
"""

from __future__ import annotations

import re
from typing import Final

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
HOST: Final = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}", re.ASCII)
MAX_NAME: Final = 253

_ANY_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#: As a part of a regular expression: what `check_pattern` lets through, its leading `*` apart. So
#: one pass of C reads a list of thousands, for which a call each would take ten times as long.
NAME_IN_LIST: Final = (
    rf"(?![A-Za-z0-9.-]{{{MAX_NAME + 1}}})(?:{_ANY_LABEL}\.)+"
    rf"(?![0-9]+(?![A-Za-z0-9.-])){_ANY_LABEL}(?![A-Za-z0-9.-])"
)
#: The same, of what is a Domain (RFC 5321 section 4.1.2) and matches no MX host of the Internet
#: besides: a single label, or a last one of digits.
DOMAIN_IN_LIST: Final = (
    rf"(?![A-Za-z0-9.-]{{{MAX_NAME + 1}}})(?:{_ANY_LABEL}\.)*{_ANY_LABEL}(?![A-Za-z0-9.-])"
)


def is_host_name(name: str) -> bool:
    """Lower-case, two labels or more, letters, digits and hyphens; no IPv4 address."""
    return (
        len(name) <= MAX_NAME
        and HOST.fullmatch(name) is not None
        and not name.rpartition(".")[2].isdigit()
    )


def check_pattern(text: str) -> str:
    """The pattern in lower case; raises ValueError with what is wrong with it."""
    pattern = text.lower() if text.isascii() else text
    if not pattern:
        raise ValueError("is empty: name an MX host, or *.domain")
    if not pattern.isascii():
        raise ValueError("has U-labels: write the A-label (xn--...)")
    if pattern.endswith("."):
        raise ValueError("ends in a dot: leave it out")
    name = pattern.removeprefix("*.")
    if "*" in name:
        raise ValueError('has a "*" that is not the whole left-most label of "*.domain"')
    if not is_host_name(name):
        raise ValueError("is no host name: write mail.example.com or *.example.com")
    return pattern


def matches(pattern: str, host: str) -> bool:
    """Whether an MX host matches a pattern; `*.` stands for exactly one label (section 4.1)."""
    host = _plain(host)
    if pattern.startswith("*."):
        label, dot, rest = host.partition(".")
        return bool(label and dot) and rest == pattern[2:]
    return host == pattern


def naming(host: str) -> tuple[str, ...]:
    """The patterns that an MX host matches: to look for in a policy that has thousands."""
    host = _plain(host)
    label, dot, rest = host.partition(".")
    return (host, f"*.{rest}") if label and dot else (host,)


def covers(pattern: str, host: str) -> bool:
    """Whether an MX host matches a pattern of the first draft; `*.` stands for one label or more
    ("any MX whose hostname is a subdomain", draft-margolis-smtp-sts-00 section 3)."""
    host = _plain(host)
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and not host.startswith(".")
    return host == pattern


def _plain(host: str) -> str:
    """In lower case without a last dot; "" where lower() could make a pattern's letters of those
    of another script."""
    return host.removesuffix(".").lower() if host.isascii() else ""
