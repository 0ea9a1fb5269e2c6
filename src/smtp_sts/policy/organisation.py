"""Whose a name is: the organisational domain, by the Public Suffix List (publicsuffix.org).

For shares and limits by stranger: one who owns `example.com` owns every name below it, so that
limits by name alone limit nobody. Promises: every name has one organisational domain; no network:
the list is the one that the package `publicsuffixlist` brings. Must not: decide what is trusted. A
list is not the DNS, and a new suffix is missing in an old one.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


@functools.lru_cache(maxsize=8192)
def organisational_domain(name: str) -> str:
    """The name one label below the longest public suffix of `name`, in lower case, without a dot at
    the end (RFC 7489 section 3.2 has the same term).

    `name` itself where it is a public suffix, or no domain name. Some 20 microseconds for a name
    that was not asked for lately; the first call reads the list, some 30 milliseconds: see `load`.
    """
    name = name.lower().removesuffix(".")
    return _list().privatesuffix(name) or name


def share_key(domain: str) -> str:
    """Under which a domain takes its share of a pool (`net/places.py`).

    The names below an organisational domain have one share together, the domain itself has its own:
    anybody can make up names below somebody else's domain, and where its name servers do not answer
    those must not stand before the domain that has mail.
    """
    top = organisational_domain(domain)
    return top if domain == top else f".{top}"


def load() -> None:
    """Read the list now, where the wait harms nobody. Later calls do nothing."""
    _list()


@functools.cache
def _list() -> PublicSuffixList:
    # Imported and read on the first use: most commands need none of it.
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
