"""Asks a running daemon through its control socket.

Promises: what comes out is data of the daemon, whole; everything else is a `ControlError` that says
what was seen and what to do, `NotRunning` where there is nobody to ask.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from smtp_sts.config import UnixAddress
from smtp_sts.daemon.control import REFRESH_SECONDS, Answer, ControlError, Request

#: Longer than the daemon ever takes for the next line (seconds).
TIMEOUT: Final = REFRESH_SECONDS + 10.0
_MAX_LINE: Final = 4_000_000
T = TypeVar("T")


class NotRunning(ControlError):
    """No daemon takes control commands there."""


def ask(
    address: UnixAddress,
    command: str,
    domains: Sequence[str] = (),
    *,
    force: bool = False,
    answer: type[T],
) -> Iterator[T]:
    """The answers to one request, as they come. Raises ControlError."""
    request = msgspec.json.encode(Request(command, list(domains), force)) + b"\n"
    with _connect(address) as sock, sock.makefile("rb") as lines:
        try:
            sock.sendall(request)
            while line := lines.readline(_MAX_LINE):
                told = msgspec.json.decode(line, type=Answer)
                if told.error:
                    raise ControlError(f"the daemon says: {told.error}")
                if told.end:
                    return
                yield msgspec.convert(told.data, answer)
        except msgspec.DecodeError as error:
            raise ControlError(
                f"{address} answers what this version cannot read: {error}"
            ) from None
        except OSError as error:
            reason = error.strerror or f"no answer for {TIMEOUT:g} s"
            raise ControlError(f"{address}: {reason}") from None
    raise ControlError(f"{address} closed the connection in the middle of an answer")


def _connect(address: UnixAddress) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(address.path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        raise NotRunning(f"no daemon takes commands at {address}") from None
    except OSError as error:
        sock.close()
        hint = "; see control.mode, or become its owner" if error.errno == 13 else ""
        raise ControlError(f"{address} cannot be reached: {error.strerror}{hint}") from None
    return sock
