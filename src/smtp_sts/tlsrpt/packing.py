"""Reports as they travel: gzip out (RFC 8460 section 5.2), gzip and ZIP in. No I/O.

Promises: `unpack` gives at most `limit` bytes, having held little more than that in memory, or
raises `EnvelopeError`; nothing else comes out, whatever bytes go in. What a file holds is told from
its first bytes: names and media types of real reports are not to be relied on.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from typing import Final

from smtp_sts.tlsrpt.bounds import (
    MAX_GZIP_MEMBERS,
    MAX_PACKED,
    MAX_UNPACKED,
    MAX_ZIP_ENTRIES,
)
from smtp_sts.tlsrpt.errors import EnvelopeError

GZIP_MAGIC: Final = b"\x1f\x8b"
ZIP_MAGIC: Final = b"PK\x03\x04"
_ZIP_ENTRY: Final = b"PK\x01\x02"
_STEP: Final = 256 * 1024


def pack(body: bytes) -> bytes:
    """gzip, the same bytes for the same body."""
    return gzip.compress(body, compresslevel=6, mtime=0)


def unpack(data: bytes, limit: int = MAX_UNPACKED) -> bytes:
    """What is inside gzip or ZIP, or `data` itself if it is neither. Raises EnvelopeError."""
    if len(data) > MAX_PACKED:
        raise EnvelopeError(
            "packed-too-large", f"{len(data)} bytes; a report has {MAX_PACKED} at most"
        )
    if data.startswith(GZIP_MAGIC):
        return _gunzip(data, limit)
    if data.startswith(ZIP_MAGIC):
        return _unzip(data, limit)
    if len(data) > limit:
        raise _bomb(limit)
    return data


def _bomb(limit: int) -> EnvelopeError:
    return EnvelopeError("unpacked-too-large", f"has more than {limit} bytes, unpacked")


def _gunzip(data: bytes, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = members = 0
    # RFC 1952 section 2.2: a file is one member or more; what follows the last is left alone
    while data.startswith(GZIP_MAGIC):
        members += 1
        if members > MAX_GZIP_MEMBERS:
            raise EnvelopeError("gzip-members", f"more than {MAX_GZIP_MEMBERS} gzip files in one")
        member = zlib.decompressobj(wbits=31)
        try:
            while not member.eof:
                # one byte over the limit is enough to know
                piece = member.decompress(data, min(_STEP, limit - size + 1))
                size += len(piece)
                if size > limit:
                    raise _bomb(limit)
                pieces.append(piece)
                data = member.unconsumed_tail
                if not piece and not data and not member.eof:
                    raise EnvelopeError("gzip-truncated", "the gzip file ends too early")
        except zlib.error as error:
            raise EnvelopeError("gzip-damaged", f"the gzip file is damaged: {error}") from None
        data = member.unused_data
    return b"".join(pieces)


def _unzip(data: bytes, limit: int) -> bytes:
    # zipfile makes an object of each before it can be asked how many there are
    if data.count(_ZIP_ENTRY) > MAX_ZIP_ENTRIES:
        raise EnvelopeError("zip-files", "many files in the ZIP archive; a report is one")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
            if len(files) != 1:
                raise EnvelopeError(
                    "zip-files", f"{len(files)} files in the ZIP archive; a report is one"
                )
            # LZMA could ask for any amount of memory, and none of the others was ever seen
            if files[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise EnvelopeError("zip-method", "the ZIP archive is not of the deflate kind")
            with archive.open(files[0]) as file:
                body = file.read(limit + 1)
    # What zipfile is known to raise for damage, encryption and unknown compression
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        OverflowError,
        UnicodeError,
        ValueError,
    ) as error:
        if isinstance(error, EnvelopeError):
            raise
        raise EnvelopeError("zip-damaged", "the ZIP archive is damaged or encrypted") from None
    if len(body) > limit:
        raise _bomb(limit)
    return body
