"""A log that is followed gives every line once."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from smtp_sts.reporting.follow import FollowedFile
from smtp_sts.reporting.journal import by_a_person, journal_line


def _drain(followed: FollowedFile) -> None:
    for _ in range(10):
        if not followed.read():
            return
    raise AssertionError("there is always more")


def test_it_begins_at_the_end_of_what_is_there_and_at_the_start_of_what_comes(
    tmp_path: Path,
) -> None:
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    old.write_bytes(b"one\n")
    seen: list[bytes] = []
    here, absent = FollowedFile(old, "", seen.append), FollowedFile(new, "", seen.append)
    _drain(here)
    _drain(absent)
    assert (seen, absent.position) == ([], "")
    with old.open("ab") as out:
        out.write(b"two\n")
    new.write_bytes(b"three\n")
    _drain(here)
    _drain(absent)
    assert seen == [b"two", b"three"]


def test_a_packed_rotation_is_a_gap_and_the_log_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    log.write_bytes(b"")
    seen: list[bytes] = []
    followed = FollowedFile(log, "", seen.append)
    _drain(followed)
    position = followed.position
    followed.close()
    log.rename(tmp_path / "x")
    (tmp_path / "mail.log.1.gz").write_bytes(b"\x1f\x8b")
    log.write_bytes(b"new\n")  # the old inode is alive: this one is another
    followed = FollowedFile(log, position, seen.append)
    _drain(followed)
    assert (seen, followed.gaps) == ([b"new"], 1)


@pytest.mark.parametrize("seed", range(20))
def test_every_line_once_over_rotation_restart_and_truncation(tmp_path: Path, seed: int) -> None:
    choice = random.Random(seed)
    log = tmp_path / "mail.log"
    log.touch()
    seen: list[bytes] = []
    followed = FollowedFile(log, "", seen.append)
    _drain(followed)
    wanted: list[bytes] = []
    rotated = 0
    for number in range(60):
        what = choice.choice(["line", "line", "half", "read", "restart", "rotate", "truncate"])
        if what in ("line", "half"):
            line = b"line %d" % number
            with log.open("ab") as out:
                out.write(line[:3])
                if what == "half":
                    out.flush()
                    _drain(followed)
                out.write(line[3:] + b"\n")
            wanted.append(line)
        elif what == "read":
            _drain(followed)
        elif what == "restart":
            position = followed.position
            followed.close()
            followed = FollowedFile(log, position, seen.append)
        elif what == "rotate":
            _drain(followed)  # of two rotations between two looks the first is lost
            rotated += 1
            log.rename(tmp_path / f"mail.log.{rotated}")
            log.touch()
        else:
            _drain(followed)
            shutil.copy(log, tmp_path / "copy")
            log.write_bytes(b"")
            _drain(followed)
    _drain(followed)
    assert seen == wanted
    assert followed.gaps == 0


def test_a_log_that_cannot_be_read_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    followed = FollowedFile(tmp_path, "", lambda _line: None)
    assert not followed.read()
    assert not followed.read()
    assert caplog.text.count("cannot be followed") == 1
    assert followed.trouble == "Is a directory"


def _entry(**fields: object) -> bytes:
    entry = {
        "__CURSOR": "s=1;i=2", "__REALTIME_TIMESTAMP": "1764042826123456", "_HOSTNAME": "alice",
        "SYSLOG_IDENTIFIER": "postfix/smtp", "SYSLOG_PID": "7", "MESSAGE": "hello", "_PID": "9",
    }  # fmt: skip
    return json.dumps({**entry, **fields}).encode()


def test_an_entry_of_the_journal_is_one_line_whatever_it_says() -> None:
    head = b"2025-11-25T03:53:46Z alice postfix/smtp[7]: "
    assert journal_line(_entry()) == (head + b"hello", "s=1;i=2")
    forged = journal_line(_entry(MESSAGE="a\nNov 25 03:53:46 alice postfix/smtp[7]: forged"))
    assert forged is not None
    assert b"\n" not in forged[0]
    assert journal_line(_entry(MESSAGE=[0xFF, 0x41])) == (head + b"\xffA", "s=1;i=2")
    for odd in ({"MESSAGE": None}, {"MESSAGE": [300]}, {"__REALTIME_TIMESTAMP": "x"},
                {"SYSLOG_IDENTIFIER": ["a"]}):  # fmt: skip
        assert journal_line(_entry(**odd)) is None
    assert journal_line(b"{") is None


def test_what_a_person_writes_into_the_journal_is_no_word_of_a_mail_server() -> None:
    """`logger -p mail.info -t postfix/smtp ...`, by anybody: _UID is the kernel's word."""
    assert by_a_person(_entry(_UID="1000"))
    assert by_a_person(_entry(_UID="60000"))
    # root, system users, dynamic users of services; an entry without, from before or from afar.
    for uid in ("0", "104", "999", "61184", "", None, [1]):
        assert not by_a_person(_entry(_UID=uid))
    assert not by_a_person(_entry())
    assert not by_a_person(b"{")
