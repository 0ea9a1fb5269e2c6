"""Logs that are read as they grow: files that are rotated under us, and systemd's journal.

Promises: every line is given once, over rotation (by renaming, or by copying and truncating) and
over a restart that brings the position back; what cannot be had any more (a rotated file that was
packed meanwhile) is counted as a gap, never guessed at. A log seen for the first time is followed
from its end: old ones are for `smtp-sts report import-log`. Must not: block for longer than reading
a block takes, or write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from smtp_sts.reporting.journal import by_a_person, journal_line
from smtp_sts.reporting.lines import MAX_LINE, Lines

#: Bytes read at once; a thousand lines or so.
BLOCK: Final = 256 * 1024
#: After journalctl has ended it is started again so much later (seconds).
AGAIN_SECONDS: Final = 5.0
#: Entries of the journal that wait to be taken.
MAX_WAITING: Final = 10_000
#: Bytes of one entry of the journal.
_MAX_ENTRY: Final = 256 * 1024
#: LOG_MAIL of syslog(3), the facility of Postfix and Exim.
_MAIL: Final = "SYSLOG_FACILITY=2"
_FIELDS: Final = (
    "__CURSOR,__REALTIME_TIMESTAMP,_HOSTNAME,SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,_UID,MESSAGE"
)
_log = logging.getLogger(__name__)


class FollowedFile:
    """One log file. `position` says how far its lines were given: device, inode and offset."""

    def __init__(self, path: Path, position: str, take: Callable[[bytes], None]) -> None:
        self._path = path
        self._take = take
        self._lines = Lines()
        self._file: BinaryIO | None = None
        self._identity = ""
        self._begun = False
        self._position = position
        #: rotated files that could not be read to their end
        self.gaps = 0
        #: why the file cannot be read now, "" where it can
        self.trouble = ""

    @property
    def too_long(self) -> int:
        """Lines that were longer than any of an MTA, and left out."""
        return self._lines.too_long

    @property
    def position(self) -> str:
        """How far lines were given; "" before the file was there."""
        if self._file is None:
            return self._position
        return f"{self._identity}:{self._file.tell() - self._lines.waiting}"

    def read(self) -> bool:
        """Give the lines of one block; whether there may be more at once."""
        try:
            return self._read()
        except OSError as error:
            if not self.trouble:
                self.trouble = error.strerror or str(error)
                _log.warning("%s cannot be followed: %s", self._path, self.trouble)
            return False

    def close(self) -> None:
        """Give the file back."""
        self._position = self.position
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> bool:
        if self._file is None and not self._open():
            return False
        file = self._file
        assert file is not None
        self.trouble = ""
        block = file.read(BLOCK)
        if block:
            for line in self._lines.feed(block):
                self._take(line)
            return True
        return self._turned(file)

    def _open(self) -> bool:
        """Open where we were; whether there is something to read."""
        begun, self._begun = self._begun, True
        known, _, offset = self._position.rpartition(":")
        try:
            file: BinaryIO = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return False  # comes with its first line
        here = _identity(file)
        if known and here != known:
            old = self._rotated(known)
            if old is None:
                self.gaps += 1
            else:
                file.close()
                file, here = old, known
        if here == known:
            size = os.fstat(file.fileno()).st_size
            file.seek(int(offset) if int(offset) <= size else 0)
        elif not known and not begun and not self._position:
            file.seek(0, os.SEEK_END)
        self._file, self._identity = file, here
        return True

    def _rotated(self, identity: str) -> BinaryIO | None:
        """The file of this identity beside the log: logrotate renames."""
        for path in self._path.parent.glob(f"{self._path.name}*"):
            with contextlib.suppress(OSError):
                file = path.open("rb", buffering=0)
                if _identity(file) == identity:
                    return file
                file.close()
        return None

    def _turned(self, file: BinaryIO) -> bool:
        """At the end of a file: is it still the log?"""
        if os.fstat(file.fileno()).st_size < file.tell():  # copied and truncated
            file.seek(0)
            self._lines = _fresh(self._lines)
            return True
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        if f"{there.st_dev}-{there.st_ino}" == self._identity:
            return False
        if block := file.read(BLOCK):  # written between our two looks
            for line in self._lines.feed(block):
                self._take(line)
            return True
        file.close()
        self._file, self._position = None, ""
        self._lines = _fresh(self._lines)
        return True


def written_last(path: Path) -> tuple[bytes, float] | None:
    """The last whole line of a file, and when the file was written; None where there is none."""
    try:
        with path.open("rb") as file:
            written = os.fstat(file.fileno()).st_mtime
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - MAX_LINE, 0))
            lines = file.read(MAX_LINE).split(b"\n")
    except OSError:
        return None
    return (lines[-2], written) if len(lines) > 1 else None


def _identity(file: BinaryIO) -> str:
    found = os.fstat(file.fileno())
    return f"{found.st_dev}-{found.st_ino}"


def _fresh(lines: Lines) -> Lines:
    """What begins anew without the half line of the file before."""
    made = Lines()
    made.lines, made.too_long = lines.lines, lines.too_long
    return made


class FollowedJournal:
    """The journal's entries of the mail facility. `position` is the cursor of the last given."""

    def __init__(self, position: str, take: Callable[[bytes], None]) -> None:
        self.position = position
        self._take = take
        self._waiting: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue(MAX_WAITING)
        self.gaps = 0
        self.too_long = 0
        #: entries of the mail facility that no mail server can have written
        self.foreign = 0
        self.trouble = ""

    def read(self) -> bool:
        """Give the lines that wait."""
        given = 0
        with contextlib.suppress(asyncio.QueueEmpty):
            while given < MAX_WAITING:
                line, cursor = self._waiting.get_nowait()
                self._take(line)
                self.position = cursor
                given += 1
        return given == MAX_WAITING

    def close(self) -> None:
        """Nothing is to be given back: `run` ends its child."""

    async def run(self) -> None:
        """Read from journalctl until cancelled; it is started again where it ends."""
        reached = self.position
        while True:
            where = [f"--after-cursor={reached}"] if reached else ["--lines=0"]
            try:
                child = await asyncio.create_subprocess_exec(
                    "journalctl", "--follow", "--output=json", f"--output-fields={_FIELDS}",
                    "--no-pager", "--quiet", *where, _MAIL,
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE, limit=_MAX_ENTRY,
                )  # fmt: skip
            except OSError as error:
                self._trouble(f"journalctl cannot be run: {error.strerror}")
            else:
                before = reached
                try:
                    reached = await self._read_from(child, reached)
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        child.kill()
                    await child.wait()
                assert child.stderr is not None
                said = (await child.stderr.read(2000)).decode("utf-8", "replace").strip()
                self._trouble(f"journalctl ended ({child.returncode}): {said!a}")
                if said and reached == before and reached:  # the cursor is no longer there
                    reached = ""
                    self.gaps += 1
            await asyncio.sleep(AGAIN_SECONDS)

    async def _read_from(self, child: asyncio.subprocess.Process, reached: str) -> str:
        assert child.stdout is not None
        while True:
            try:
                data = await child.stdout.readline()
            except ValueError:  # longer than the limit: what is left of it is no entry
                self.too_long += 1
                continue
            if not data:
                return reached
            self.trouble = ""
            if by_a_person(data):
                self.foreign += 1
                continue
            found = journal_line(data)
            if found is not None:
                await self._waiting.put(found)
                reached = found[1]

    def _trouble(self, text: str) -> None:
        if not self.trouble:
            self.trouble = text
            _log.warning("the journal cannot be followed: %s", text)
