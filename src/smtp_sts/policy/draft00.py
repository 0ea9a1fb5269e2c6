"""The `_smtp_sts` TXT record of the first draft: record and policy in one. No I/O.

draft-margolis-smtp-sts-00 sections 3 and 3.1. Promises: `find_draft_record` gives the one record
that counts, None where there is none, or raises `RecordError`; nothing else ever comes out,
whatever bytes go in. Reading what `DraftRecord.render` made gives the same policy. Read leniently,
written strictly; docs/draft-00.md has each choice where the text contradicts itself, and why.
Example:

    v=STS1; to=true; mx=*.example.com; a=webpki:https://example.com/.well-known/smtp-sts/current;
    c=webpki; e=2592000; rua=mailto:reports@example.com!10m
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from smtp_sts.policy import pattern
from smtp_sts.policy.document import MAX_AGE, Policy
from smtp_sts.policy.draft00_authentication import Authentication, read_authentication
from smtp_sts.policy.draft00_rua import ReportUri, read_rua
from smtp_sts.policy.errors import RecordError, shown

Constraint = Literal["webpki", "tlsa"]

#: What tells a policy of this dialect from one of RFC 8461 ("STSv1").
DRAFT_VERSION: Final = "STS1"
#: The greatest number that the ABNF of `e` has room for, seconds: eleven days and a half.
ABNF_LIFETIME: Final = 999_999
# Names and keywords of an ABNF are case-insensitive (RFC 5234 section 2.3); the version is not.
_START: Final = re.compile(rb"[vV][ \t]*=[ \t]*STS1[ \t]*(?:;|\Z)")
_FIELDS: Final = ("v", "to", "mx", "a", "c", "e", "rua")
_MODES: Final[dict[str, Literal["enforce", "testing"]]] = {"true": "enforce", "false": "testing"}
_CONSTRAINTS: Final[dict[str, Constraint]] = {"webpki": "webpki", "tlsa": "tlsa"}
_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
#: Where a list of patterns goes on with something that is none.
_FAULTY_MX: Final = re.compile(
    rf"(?:\A|,)(?![ \t]*(?:[*_]\.)?{pattern.NAME_IN_LIST}[ \t]*(?:,|\Z))", re.ASCII
)
_NO_BLANKS: Final = {ord(" "): None, ord("\t"): None}
#: A field name longer than this has no near neighbour.
_LONG_NAME: Final = 32
_PRINTABLE: Final = re.compile(rb"[\t\x20-\x7e]*")


class DraftRecord(msgspec.Struct, frozen=True):
    """A valid record of the first draft.

    `mx` holds lower-case patterns, `*.` where the record may have `_.`; empty where a report-only
    policy names none. `lifetime` is in seconds, 0 where a report-only policy names none.
    `authentication` is None where the record names no mechanism: no other policy can take this
    one's place before it expires. `text` is the record as it was published, for section 3.3;
    `skipped` says in sentences which report addresses were left out.
    """

    mode: Literal["enforce", "testing"]
    mx: tuple[str, ...] = ()
    authentication: Authentication | None = None
    constraint: Constraint = "webpki"
    lifetime: int = 0
    rua: tuple[ReportUri, ...] = ()
    text: str = ""
    skipped: tuple[str, ...] = ()

    @property
    def policy(self) -> Policy:
        """What means the same in RFC 8461. Its `matches` does not: use that of the record."""
        return Policy(self.mode, self.mx, self.lifetime, DRAFT_VERSION)

    def matches(self, host: str) -> bool:
        """Whether mail may go to this MX host; patterns cover any depth (section 3, `mx`)."""
        return not self.mx or any(pattern.covers(p, host) for p in self.mx)

    def render(self) -> str:
        """The text to publish, in DNS and at the URL of `a`, in the order of the ABNF."""
        fields = [f"v={DRAFT_VERSION}", f"to={'true' if self.mode == 'enforce' else 'false'}"]
        if self.mx:
            fields.append(f"mx={','.join(self.mx)}")
        if self.authentication is not None:
            fields.append(f"a={self.authentication.render()}")
        fields.append(f"c={self.constraint}")
        if self.lifetime:
            fields.append(f"e={self.lifetime}")
        if self.rua:
            fields.append(f"rua={','.join(uri.render() for uri in self.rua)}")
        return "; ".join(fields)


def draft_record_name(domain: str) -> str:
    """Where the TXT record of a policy domain stands (section 3)."""
    return f"_smtp_sts.{domain}"


def find_draft_record(records: Iterable[bytes], domain: str) -> DraftRecord | None:
    """The record for us among the TXT records at `_smtp_sts.<domain>`.

    Each record is one `bytes`, its character-strings joined without blanks; `domain` is the policy
    domain, where the URL of `a` must lead. Raises RecordError where there is more than one for us,
    or the one there is is not valid.
    """
    ours = [record for record in records if _START.match(record)]
    if not ours:
        return None
    if len(ours) > 1:
        raise RecordError(
            "multiple-records", f"{len(ours)} records begin with v=STS1; publish exactly one"
        )
    return _parse(ours[0], domain)


def body_matches(record: DraftRecord, body: bytes) -> bool:
    """Whether the body at the URL of `a` is this record's text.

    Section 3.3: "MUST exactly match"; a line end more is a difference.
    """
    return body == record.text.encode("ascii")


def body_difference(record: DraftRecord, body: bytes) -> str:
    """Where a body departs from the record's text, in a sentence; "" where it does not."""
    text = record.text.encode("ascii")
    if body == text:
        return ""
    if body.startswith(text):
        return f"the body has {shown(body[len(text) :])} after the record's text"
    same = next((i for i, (a, b) in enumerate(zip(text, body, strict=False)) if a != b), len(body))
    if same == len(body):
        return f"the body ends after {same} bytes of the record's {len(text)}"
    return (
        f"the body has {shown(body[same : same + 20])} at byte {same + 1}, "
        f"the record {shown(text[same : same + 20])}"
    )


def _parse(raw: bytes, domain: str) -> DraftRecord:
    printable = _PRINTABLE.match(raw)
    if printable is not None and printable.end() < len(raw):
        raise RecordError(
            "record-not-ascii", "a record is printable US-ASCII", column=printable.end() + 1
        )
    text = raw.decode("ascii")
    fields = _split(text)
    mode, column = _required(fields, "to", "to=false", "a policy says whether it is enforced")
    if mode.lower() not in _MODES:
        raise RecordError("record-to", f"to={shown(mode)} is neither true nor false", column=column)
    enforced = mode.lower() == "true"
    if enforced:
        # The prose wants every field but rua, the ABNF none of these, and the example of appendix
        # 2 has none in a report-only record. Nobody's mail waits for a demand that was not made.
        _required(fields, "mx", "mx=mail.example.com", "with to=true, MX hosts are to be named")
        _required(fields, "e", "e=2592000", "with to=true, a lifetime is to be named")
    authentication = None
    if "a" in fields:
        authentication = read_authentication(fields["a"][0], domain, fields["a"][1])
    constraint, column = fields.get("c", ("webpki", 0))
    if constraint.lower() not in _CONSTRAINTS:
        raise RecordError(
            "record-constraint", f"c={shown(constraint)} is neither webpki nor tlsa", column=column
        )
    rua, skipped = read_rua(fields["rua"][0]) if "rua" in fields else ((), ())
    return DraftRecord(
        mode=_MODES[mode.lower()],
        mx=_mx(*fields["mx"]) if "mx" in fields else (),
        authentication=authentication,
        constraint=_CONSTRAINTS[constraint.lower()],
        lifetime=_lifetime(*fields["e"]) if "e" in fields else 0,
        rua=rua,
        text=text,
        skipped=skipped,
    )


def _split(text: str) -> dict[str, tuple[str, int]]:
    """The fields and the columns they begin at. Raises RecordError."""
    fields: dict[str, tuple[str, int]] = {}
    position = 0
    pieces = text.split(";")
    for index, piece in enumerate(pieces):
        column = position + 1 + len(piece) - len(piece.lstrip(" \t"))
        position += len(piece) + 1
        field = piece.strip(" \t")
        if not field:
            if index == len(pieces) - 1:
                break  # sts-sep may end the record
            raise RecordError("record-empty-field", "nothing between two semicolons", column=column)
        name, equals, value = field.partition("=")
        key = name.rstrip(" \t").lower()
        if not equals:
            raise RecordError(
                "record-field", f"{shown(field)} is no field: write name=value", column=column
            )
        if key not in _FIELDS:  # the grammar is closed: what we do not know may be a demand
            near = difflib.get_close_matches(key[:_LONG_NAME], _FIELDS, 1, 0.5)
            hint = f"; {near[0]} is meant?" if near else f"; there are {', '.join(_FIELDS)}"
            raise RecordError(
                "record-unknown-field", f"there is no field {shown(name)}{hint}", column=column
            )
        if key in fields:
            raise RecordError(
                "record-field-twice",
                f"{key}= stands at column {fields[key][1]} already: one of them is to go",
                column=column,
            )
        fields[key] = (value.strip(" \t"), column)
    return fields


def _required(
    fields: dict[str, tuple[str, int]], name: str, example: str, why: str
) -> tuple[str, int]:
    if name not in fields:
        raise RecordError(f"record-no-{name}", f'no {name} field: add "{example}"; {why}')
    return fields[name]


def _mx(value: str, column: int) -> tuple[str, ...]:
    if fault := _FAULTY_MX.search(value):
        name = value[fault.end() :].partition(",")[0].strip(" \t")
        try:
            pattern.check_pattern(_starred(name))
        except ValueError as error:
            raise RecordError("record-mx", f"mx {shown(name)} {error}", column=column) from None
    names = value.translate(_NO_BLANKS).lower()
    # The draft's plain text shows "_.example.com", where its source has "*.example.com".
    return tuple(dict.fromkeys(f",{names}".replace(",_.", ",*.")[1:].split(",")))


def _starred(name: str) -> str:
    return f"*{name[1:]}" if name.startswith("_.") else name


def _lifetime(value: str, column: int) -> int:
    # The ABNF has room for six digits, section 3.2 wants "typically greater than two weeks"; read
    # as RFC 8461 section 3.2 reads max_age.
    if not _NUMBER.fullmatch(value):
        raise RecordError(
            "record-lifetime",
            f"e={shown(value)} is no number of seconds of at most 10 digits",
            column=column,
        )
    if int(value) == 0:
        raise RecordError(
            "record-lifetime",
            "e=0 is over before it begins: name the seconds that senders may keep the policy",
            column=column,
        )
    return min(int(value), MAX_AGE)
