"""Netstrings, as socketmap uses them: `<length>:<bytes>,`. No I/O.

Promises: `parse` tells apart what is whole, what needs more bytes and what can never become a
netstring; it never reads past `limit`.
"""

from __future__ import annotations

from typing import Final

#: Postfix sends no longer query (3.12 makes it a limit of its own), bytes.
MAX_REQUEST: Final = 10_000


class NetstringError(ValueError):
    """These bytes are not the beginning of a netstring; the connection cannot go on."""


def encode(payload: bytes) -> bytes:
    """The netstring that holds `payload`."""
    return b"%d:%b," % (len(payload), payload)


def parse(data: bytes, start: int = 0, limit: int = MAX_REQUEST) -> tuple[bytes, int] | None:
    """The payload of the netstring at `start` and where the next one begins.

    None where more bytes are needed. Raises NetstringError for what is none or is over `limit`.
    """
    digits = len(str(limit))
    colon = data.find(b":", start, start + digits + 1)
    head = data[start : colon if colon >= 0 else start + digits + 1]
    if (head and not head.isdigit()) or (colon >= 0 and not head):
        raise NetstringError("no length before the colon")
    if len(head) > 1 and head[:1] == b"0":
        raise NetstringError("length with a leading zero")
    if colon < 0:
        if len(head) > digits:
            raise NetstringError(f"length of more than {digits} digits")
        return None
    length = int(head)
    if length > limit:
        raise NetstringError(f"length {length} is over {limit}")
    end = colon + 1 + length
    if len(data) <= end:
        return None
    if data[end] != 0x2C:
        raise NetstringError("no comma at the end")
    return data[colon + 1 : end], end + 1
