"""What Postfix 3.10 and later says of each TLS session, by libtlsrpt: one JSON object a datagram.

Promises: `parse` gives the outcomes of a delivery attempt, one a policy, or raises `DatagramError`;
nothing else comes out, whatever bytes go in. A datagram of any size that the kernel hands over is
read; bytes that are not UTF-8 are replaced, never a reason to drop the rest; an absent `dpv` is
version 1 (libtlsrpt 0.5.0 sends none). No I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Annotated, Any, Final

import msgspec

from smtp_sts.dane.faults import as_fault
from smtp_sts.reporting.declared import left_out
from smtp_sts.reporting.outcome import Outcome, Trouble
from smtp_sts.tlsrpt import AppliedPolicy
from smtp_sts.tlsrpt.names import clean, domain_name, ip_address
from smtp_sts.tlsrpt.results import CODES, GENERAL_FAILURE, POLICY_CODES

#: Texts of one datagram that are kept, characters.
MAX_RECORD: Final = 4096
MAX_LINE: Final = 512
MAX_REASON: Final = 256
#: Lines of a policy, MX patterns, failures and policies of one datagram that are kept.
MAX_ENTRIES: Final = 100
MAX_POLICIES: Final = 32
#: Characters of a policy that is kept for the next datagram that has it: those of a stranger may
#: fill a datagram each.
_KEPT: Final = 2048
_VERSION: Final = "1"


class DatagramError(ValueError):
    """Bytes that are no datagram of libtlsrpt; `slug` is stable."""

    def __init__(self, slug: str, message: str) -> None:
        self.slug = slug
        super().__init__(message)


_Texts = list[str] | None
_Reading = Callable[[tuple[str, ...]], tuple[str, ...]]


class _Failure(msgspec.Struct, gc=False):
    c: int
    s: str | None = None
    n: str | None = None
    h: str | None = None
    r: str | None = None
    a: str | None = None
    f: str | None = None


class _Policy(msgspec.Struct, rename="kebab", gc=False):
    policy_type: int
    f: int
    policy_domain: str | None = None
    policy_string: _Texts = None
    mx_host: _Texts = None
    failure_details: list[_Failure] | None = None
    t: int = 0


class _Datagram(msgspec.Struct, gc=False):
    d: str
    policies: Annotated[list[_Policy], msgspec.Meta(min_length=1)]
    pr: str | None = None
    dpv: str | int = _VERSION


_decode: Final = msgspec.json.Decoder(_Datagram).decode


def parse(data: bytes, at: float) -> list[Outcome]:
    """The outcomes that a datagram received at `at` tells of. Raises DatagramError."""
    found = _read(data)
    if str(found.dpv) != _VERSION:
        raise DatagramError("datagram-version", f"protocol version {clean(str(found.dpv), 20)!a}")
    domain = domain_name(found.d)
    if not domain:
        raise DatagramError("datagram-domain", "d is no domain name")
    record = clean(found.pr or "", MAX_RECORD)
    return [
        Outcome(
            at=at,
            source="datagram",
            domain=domain,
            failed=p.f != 0,
            policy=_policy(p, domain),
            troubles=_troubles(p) if p.failure_details else (),
            record=record,
        )
        for p in found.policies[:MAX_POLICIES]
    ]


def _read(data: bytes) -> _Datagram:
    try:
        return _decode(data)
    except UnicodeDecodeError:  # bytes from 0x80 up pass libtlsrpt as they are
        return _read(data.decode("utf-8", "replace").encode())
    except msgspec.ValidationError as error:
        raise DatagramError("datagram-fields", clean(str(error), 200)) from None
    except msgspec.DecodeError as error:
        raise DatagramError("datagram-not-json", clean(str(error), 200)) from None
    except RecursionError:
        raise DatagramError("datagram-not-json", "nested too deeply") from None


def _policy(found: _Policy, domain: str) -> AppliedPolicy:
    kind = POLICY_CODES.get(found.policy_type)
    if kind is None:
        raise DatagramError("datagram-fields", f"policy-type {found.policy_type} is unknown")
    given = found.policy_domain
    return AppliedPolicy(
        policy_type=kind,
        # libtlsrpt before 0.5 leaves it out where it is the domain itself
        policy_domain=domain if given is None else domain_name(given) or domain,
        policy_string=_policy_lines(found.policy_string) if found.policy_string else (),
        mx_host=_hosts(_first(found.mx_host)) if found.mx_host else (),
    )


def _first(texts: list[str]) -> tuple[str, ...]:
    return tuple(texts[:MAX_ENTRIES])


def _policy_lines(texts: list[str]) -> tuple[str, ...]:
    lines, more = _lines(_first(texts)), len(texts) - MAX_ENTRIES
    return (*lines, left_out(more)) if more > 0 else lines


def _remembered(read: _Reading) -> _Reading:
    """The same policies come by the thousand."""
    kept = lru_cache(maxsize=4096)(read)

    @wraps(read)
    def reading(texts: tuple[str, ...]) -> tuple[str, ...]:
        return kept(texts) if sum(map(len, texts)) <= _KEPT else read(texts)

    return reading


@_remembered
def _lines(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, (clean(text, MAX_LINE) for text in texts)))


@_remembered
def _hosts(texts: tuple[str, ...]) -> tuple[str, ...]:
    kept = []
    for text in texts:
        star = "*." if text.startswith("*.") else ""
        if name := domain_name(text.removeprefix("*.")):
            kept.append(star + name)
    return tuple(kept)


def _troubles(policy: _Policy) -> tuple[Trouble, ...]:
    return tuple(_trouble(f) for f in (policy.failure_details or ())[:MAX_ENTRIES])


def _trouble(found: _Failure) -> Trouble:
    reason = clean(found.f or "", MAX_REASON)
    name = CODES.get(found.c)
    if name is None:  # a type of the future: section 4.3.3 has a type for it
        name, reason = GENERAL_FAILURE, reason or f"code {found.c}"
    return Trouble(
        result_type=as_fault(name, reason),
        sending_mta_ip=ip_address(found.s or ""),
        receiving_mx_hostname=domain_name(found.n or ""),
        receiving_mx_helo=ehlo_name(found.h or ""),
        receiving_ip=ip_address(found.r or ""),
        additional_information=clean(found.a or "", MAX_LINE),
        failure_reason_code=reason,
    )


def ehlo_name(reply: str) -> str:
    """The name a host gives itself: the first word of its EHLO reply (RFC 5321 section 4.1.1.1).

    The rest is a greeting that may differ from session to session.
    """
    line = clean(reply[:1024].partition("\n")[0], 1024)
    if line[:3].isdigit() and line[3:4] in {"-", " "}:
        line = line[4:]
    word = line.split(maxsplit=1)
    return word[0][:255] if word else ""


def sample(data: bytes) -> dict[str, Any]:
    """What is kept of a datagram that could not be read, for inspection."""
    return {"bytes": len(data), "start": ascii(data[:200].decode("utf-8", "replace"))}
