"""The name servers of resolv.conf(5), and whether they are others by now.

Promises: a file that is missing, empty or half written never takes away name servers that were
there (law 4: no trouble of ours defers mail, nor makes us blind); looking costs one stat(2) where
nothing has changed. Must not: be asked on the way of an answer, for it reads a file.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

PATH: Final = "/etc/resolv.conf"
PORT: Final = 53
#: Name servers that are taken, as resolv.conf(5) has it.
MAX_SERVERS: Final = 3
#: Asked where the file names nobody, as resolv.conf(5) has it.
LOCAL: Final = ("127.0.0.1", PORT)


class ResolvConf:
    """One file, followed; `servers` are (address, port) each, in their order.

    `trust_ad`: it says `options trust-ad`, that they validate and are reached by a safe way.
    """

    def __init__(self, path: str = PATH) -> None:
        self._path = path
        self._mark = _mark(path)
        found, self.trust_ad = _read(path)
        self.servers = found or [LOCAL]

    def changed(self) -> bool:
        """Read the file again where it is another one by now; whether `servers` are
        others, or trusted otherwise."""
        mark = _mark(self._path)
        if mark == self._mark:
            return False
        found, trust_ad = _read(self._path)
        if not found:  # on its way: looked at again next time
            return False
        self._mark = mark
        before = (self.servers, self.trust_ad)
        self.servers, self.trust_ad = found, trust_ad
        return (found, trust_ad) != before


def _mark(path: str) -> tuple[int, ...] | None:
    """What tells one version of a file from the next; symbolic links are followed."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)


def _read(path: str) -> tuple[list[tuple[str, int]], bool]:
    """The name servers, and whether the options say `trust-ad`."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [], False
    found: list[tuple[str, int]] = []
    trust_ad = False
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["options"]:
            trust_ad = trust_ad or "trust-ad" in words[1:]
        elif len(words) >= 2 and words[0] == "nameserver":
            try:
                ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            found.append((words[1], PORT))
    return found[:MAX_SERVERS], trust_ad
