"""Postfix's tcp_table(5): for look-ups across machines by an MTA that has no socketmap.

    request   get SP key LF
    answer    200 SP value LF     found
              500 SP text LF      not found
              400 SP text LF      an error: Postfix defers

Blanks, controls, `%` and everything beyond ASCII are `%XX`, both ways. The reply profile is
`postfix`, the only one that fits into a line. Promises: no answer is longer than Postfix reads; of
a policy that does not fit, a part of the patterns is told (`limits.py`); a line that is too long
ends its connection and is counted.
"""

from __future__ import annotations

import logging
import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from smtp_sts.mta.limits import TCP_TABLE_LINE, TCP_TABLE_LIST
from smtp_sts.mta.profiles import NOT_FOUND, postfix, secure
from smtp_sts.mta.service import Connection
from smtp_sts.resolver.decision import Decision

_STATUS: Final = {"OK": "200", "NOTFOUND": "500"}
#: What stands for itself in an answer.
_SAFE: Final = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) != "%")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_log = logging.getLogger(__name__)


def _line(status: str, text: str) -> bytes:
    return f"{status} {quote(text, safe=_SAFE)}\n".encode("ascii")


_NOT_FOUND: Final = _line("500", "not found")


def answer(decision: Decision) -> bytes:
    """The answer to a decision."""
    reply = postfix(decision)
    if reply == NOT_FOUND:
        return _NOT_FOUND
    if len(reply) > TCP_TABLE_LIST and decision.policy is not None:
        reply = secure(decision.policy, TCP_TABLE_LIST)
    word, _, text = reply.partition(" ")
    return _line(_STATUS.get(word, "400"), text)


class TcpTable(Connection):
    """One connection of a Postfix process."""

    __slots__ = ()

    def _requests(self, data: bytes) -> int:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._request(line)
        if len(rest) > TCP_TABLE_LINE:
            self._too_long()
        return len(data) - len(rest)

    def _request(self, line: bytes) -> None:
        if len(line) > TCP_TABLE_LINE:
            self._too_long()
        command, _, key = line.removesuffix(b"\r").partition(b" ")
        if command != b"get" or _BAD_ESCAPE.search(key):
            self._service.count("bad-lines")
            self._reply(_line("400", 'write "get", a blank, and a key in which % is %25'))
            return
        where = self._service.next_hop_of(unquote_to_bytes(key), "tcp-table")
        if where is None:
            self._reply(_NOT_FOUND)
        else:
            self._ask(where, answer, _NOT_FOUND, "tcp-table")

    def _too_long(self) -> None:
        self._service.count("long-lines")
        _log.debug("a line of more than %d bytes", TCP_TABLE_LINE)
        raise ValueError("line too long")
