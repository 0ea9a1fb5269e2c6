"""socketmap, as Postfix and Sendmail speak it: the hot path.

Promises: replies go out in the order of the requests; a request whose reply is ready is answered
without leaving `data_received`; bytes that are no netstring close that connection and are counted,
nothing more; a client that sends without reading is not read from (bounded memory); an idle
connection is kept (Postfix before 3.10 takes an idle close for a failed look-up).
Must not log, lock or await on the way of a ready reply.

Why the hot path may split at commas: the keys of the ready table are whole netstrings without a
comma but their last, and netstrings are a prefix-free code. So where the text up to and with the
next comma is such a key, it is that request and no other.
"""

from __future__ import annotations

import logging
from time import time
from typing import Final, cast

import msgspec

from smtp_sts.mta import netstring
from smtp_sts.mta.profiles import NOT_FOUND, PROFILES, profile_name, stsmx
from smtp_sts.mta.ready import Ready
from smtp_sts.mta.service import Connection, Service
from smtp_sts.mta.told import replies
from smtp_sts.resolver.decision import Decision, as_data

#: The map that answers with the whole decision, for `smtp-sts query --server`.
EXPLAIN: Final = "explain"
#: The map whose keys are a domain, a slash and an MX host: whether its policy names the host.
STSMX: Final = "stsmx"

_NOT_FOUND: Final = netstring.encode(NOT_FOUND.encode())
_log = logging.getLogger(__name__)


class Socketmap(Connection):
    """One connection of an MTA."""

    __slots__ = ("_table",)

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._table = service.table

    # -- the hot path -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of one or more requests, or of a part of one."""
        table = self._table
        if time() >= table.due:
            table.sweep(time())
        if not self._buffer and not self._pending:
            ready = table.replies.get(data)
            if ready is not None:
                if not ready.hits:
                    table.asked.append(ready)
                ready.hits += 1
                self._write(ready.reply)
                return
            parts = data.split(b",")
            if len(parts) > 2 and not parts.pop():
                found = [*map(table.replies.get, [part + b"," for part in parts])]
                if None not in found:
                    several = cast("list[Ready]", found)
                    # All count as what the first one is: each by itself would cost 5 %.
                    table.given(several[0], len(several))
                    self._write(b"".join([ready.reply for ready in several]))
                    return
        super().data_received(data)

    # -- everything else ----------------------------------------------------------------------

    def _requests(self, data: bytes) -> int:
        position = 0
        try:
            while position < len(data):
                found = netstring.parse(data, position)
                if found is None:
                    break
                payload, after = found
                self._request(payload, data[position:after])
                position = after
        except netstring.NetstringError as error:
            self._service.count("bad-netstrings")
            _log.debug("bad netstring: %s", error)
            raise
        return position

    def _request(self, payload: bytes, request: bytes) -> None:
        ready = self._table.replies.get(request)
        if ready is not None:
            self._table.given(ready)
            self._reply(ready.reply)
            return
        name, _, key = payload.partition(b" ")
        map_name = name.decode("ascii", "replace")
        profile = map_name if map_name in (EXPLAIN, STSMX) else profile_name(map_name)
        host = ""
        if profile == STSMX:
            key, _, mx = key.partition(b"/")
            host = mx.decode("ascii", "replace")
        where = self._service.next_hop_of(key if name.isascii() else b"", profile)
        if where is None:
            self._reply(_NOT_FOUND)
            return

        question = self._table.open(where.domain)

        def render(decision: Decision) -> bytes:
            if map_name == EXPLAIN:
                data = as_data(key.decode("utf-8"), decision, replies(decision))
                return netstring.encode(b"OK " + msgspec.json.encode(data))
            told = stsmx(decision, host) if profile == STSMX else PROFILES[profile](decision)
            reply = netstring.encode(told.encode("ascii"))
            fresh = not question.stale and decision.valid_until > time()
            if fresh and request.count(b",") == 1:
                kind = f"{profile} {decision.outcome}"
                self._table.add(request, reply, where.domain, decision.valid_until, kind)
            return reply

        self._ask(where, render, _NOT_FOUND, profile, lambda: self._table.close(question))
