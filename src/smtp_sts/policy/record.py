"""The `_mta-sts` TXT record (RFC 8461 section 3.1). No I/O.

Promises: `find_record` gives the one record that counts, None where there is none, or raises
`RecordError`; nothing else ever comes out, whatever bytes go in.
Example: `v=STSv1; id=20160831085700Z;`
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from smtp_sts.policy.errors import RecordError, shown

_START: Final = b"v=STSv1;"
_ID: Final = re.compile(rb"[A-Za-z0-9]{1,32}")
_NAME: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
# sts-ext-value: %x21-3A / %x3C / %x3E-7E
_VALUE: Final = re.compile(rb"[\x21-\x3a\x3c\x3e-\x7e]+")


class Record(msgspec.Struct, frozen=True):
    """A valid record. `id` tells one version of the policy from another."""

    id: str

    def render(self) -> str:
        """The text to publish."""
        return f"v=STSv1; id={self.id};"


def find_record(records: Iterable[bytes]) -> Record | None:
    """The record for us among the TXT records at `_mta-sts.<domain>`.

    Each record is one `bytes`, its character-strings joined without blanks. Raises RecordError
    where there is more than one for us, or the one there is is not valid.
    """
    # Section 3.1: "records which do not begin with "v=STSv1;" are discarded". Erratum 6285: so
    # blanks before the semicolon do not match.
    ours = [record for record in records if record.startswith(_START)]
    if not ours:
        return None
    if len(ours) > 1:
        raise RecordError(
            "multiple-records", f"{len(ours)} records begin with v=STSv1; publish exactly one"
        )
    return _parse(ours[0])


def _parse(text: bytes) -> Record:
    if not text.isascii():
        column = next(i for i, byte in enumerate(text) if byte > 0x7E) + 1
        raise RecordError("record-not-ascii", "a record is US-ASCII", column=column)
    policy_id: str | None = None
    position = len(_START)
    pieces = text[position:].split(b";")
    for index, piece in enumerate(pieces):
        column = position + 1 + len(piece) - len(piece.lstrip(b" \t"))
        position += len(piece) + 1
        field = piece.strip(b" \t")
        if not field:
            if index == len(pieces) - 1:
                break  # the last delimiter may end the record
            raise RecordError("record-empty-field", "nothing between two semicolons", column=column)
        name, equals, value = field.partition(b"=")
        if not equals or not _NAME.fullmatch(name):
            raise RecordError(
                "record-field", f"{shown(field)} is no field: write name=value", column=column
            )
        if name == b"id" and policy_id is None:  # section 3.2: of duplicates the first counts
            if not _ID.fullmatch(value):
                raise RecordError(
                    "record-id",
                    f"id {shown(value)} is not 1 to 32 letters and digits",
                    column=column,
                )
            policy_id = value.decode("ascii")
        elif not _VALUE.fullmatch(value):
            raise RecordError(
                "record-field", f"{shown(field)}: a value has no blank, = or ;", column=column
            )
    if policy_id is None:
        raise RecordError("record-no-id", "no id field: add id= and a new value for each change")
    return Record(policy_id)
