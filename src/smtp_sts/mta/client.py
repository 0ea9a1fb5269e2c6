"""A socketmap client: asks a daemon as an MTA would.

Promises: one question, one answer, within `TIMEOUT`; whatever else comes back is a `ClientError`
that tells what was seen.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from smtp_sts.config import Address, TcpAddress
from smtp_sts.mta import netstring
from smtp_sts.mta.socketmap import EXPLAIN

#: More than the daemon ever takes (law 6), seconds.
TIMEOUT: Final = 10.0
_MAX_REPLY: Final = 4_000_000
_SHOWN: Final = 60


class ClientError(Exception):
    """The daemon could not be asked; the message says what was seen."""


async def ask(address: Address, map_name: str, key: str) -> str:
    """The reply to one look-up. Raises ClientError."""
    try:
        async with asyncio.timeout(TIMEOUT):
            return await _ask(address, netstring.encode(f"{map_name} {key}".encode()))
    except TimeoutError:
        raise ClientError(f"{address} did not answer within {TIMEOUT:g} s") from None
    except OSError as error:
        raise ClientError(f"{address} cannot be reached: {error.strerror or error}") from None


async def _ask(address: Address, request: bytes) -> str:
    if isinstance(address, TcpAddress):
        reader, writer = await asyncio.open_connection(address.host, address.port)
    else:
        reader, writer = await asyncio.open_unix_connection(address.path)
    try:
        writer.write(request)
        data = b""
        while True:
            chunk = await reader.read(65536)
            if not chunk:
                raise ClientError(f"{address} closed the connection without an answer")
            data += chunk
            try:
                found = netstring.parse(data, limit=_MAX_REPLY)
            except netstring.NetstringError as error:
                said = f"{error}; it says {data[:_SHOWN]!r}"
                raise ClientError(f"{address} does not speak socketmap: {said}") from None
            if found is not None:
                return found[0].decode("utf-8", "replace")
    finally:
        writer.transport.abort()


async def explain(address: Address, domain: str) -> dict[str, Any]:
    """The whole decision of a running daemon, as `resolver.decision.as_data` has it.

    Raises ClientError.
    """
    reply = await ask(address, EXPLAIN, domain)
    try:
        data = msgspec.json.decode(reply.removeprefix("OK "))
    except msgspec.DecodeError:
        raise ClientError(f"{address} is no smtp-sts: it answers {reply[:80]!r}") from None
    if not isinstance(data, dict):
        raise ClientError(f"{address} is no smtp-sts: it answers {reply[:80]!r}")
    return data
