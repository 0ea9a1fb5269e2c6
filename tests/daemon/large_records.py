"""A name server, in a process of its own, for records of the first draft as large as can be.

`python large_records.py` prints its port. TXT at `_smtp_sts.*` is a record of 60 KB, which differs
from name to name; there is nothing else. As fast as it is asked, so that nothing but the daemon
limits what comes.
"""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast


@contextmanager
def large_records() -> Iterator[int]:
    """Runs; the port."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


_LIST = ",".join(f"{n:x}.cd" for n in range(8400))


def _record(name: bytes) -> bytes:
    text = f"v=STS1; to=true; mx={name.hex()[:32]}.ab,{_LIST}; e=86400".encode()[:60000]
    text = text.rpartition(b",")[0] + b"; e=86400"
    pieces = [text[at : at + 255] for at in range(0, len(text), 255)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces)


def answer(query: bytes, *, udp: bool) -> bytes:
    end = query.index(b"\0", 12) + 5
    question = query[12:end]
    large = question.startswith(b"\x09_smtp_sts") and question[-4:-2] == b"\0\x10"
    flags = 0x8180 | (0x0200 if large and udp else 0)
    head = query[:2] + struct.pack("!5H", flags, 1, int(large and not udp), 0, 0) + question
    if not large or udp:
        return head
    data = _record(question)
    return head + struct.pack("!3HIH", 0xC00C, 16, 1, 300, len(data)) + data


class _Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(answer(data, udp=True), addr)


async def _tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            found = answer(await reader.readexactly(size), udp=False)
            writer.write(struct.pack("!H", len(found)) + found)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(_tcp, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(_Udp, local_addr=("127.0.0.1", port))
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
