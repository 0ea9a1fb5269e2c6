"""DANE and STS, and the dialects of STS, weighed against each other: what an MTA is told. No I/O.

Promises (DESIGN, the laws): DANE wins only where the MX RRset is secure and every MX host has
usable TLSA records (3); nothing that the DNS says or fails to say weakens an unexpired policy (1);
mail is deferred only where a domain is signed, its DANE state cannot be determined, and no policy
is enforced (4). Must not: know of names, queries or time.

RFC 8461 section 2: senders "MUST NOT allow MTA-STS Policy validation to override a failing DANE
validation". RFC 7672 section 2.1.2: where questions for TLSA records fail, the client "MUST treat
that server as unreachable and MUST NOT deliver the message via that server". So mail waits where
the answers are blocked or forged, and a `testing` or `none` policy, which protects nobody, changes
nothing about that. With an `enforce` policy we go by the policy, which is less than the letter of
RFC 7672: such mail goes to nobody but a host that the policy names and WebPKI proves, and otherwise
one blocked answer would hold back mail that is protected. Where TLSA records were found, a
certificate that fails them is refused whatever the policy says: the answer is DANE's.
"""

from __future__ import annotations

from typing import Final

import msgspec

from smtp_sts.dane import Tlsa
from smtp_sts.resolver.dane_state import DaneHost, DaneState, Verdict
from smtp_sts.resolver.decision import Decision, Step

#: What would change the verdict, for people.
_WOULD_CHANGE: Final[dict[Verdict, str]] = {
    "dane": "",
    "partial": "; usable TLSA records of every MX host would make DANE apply",
    "none": "; usable TLSA records of every MX host would make DANE apply",
    "insecure": "; the zone that holds them would have to be signed with DNSSEC for DANE to apply",
    "null-mx": "",
    "no-mail": "",
    "indeterminate": "; where no policy is enforced mail waits until the DNS answers, or "
    "until a rule says dane = false",
    "failed": "",
}
#: Verdicts of a look that saw nothing.
_TELL_NOTHING: Final = ("indeterminate", "failed")
#: What is said of a domain by the verdict alone.
_PLAIN: Final[dict[Verdict, str]] = {
    "insecure": "the MX records of {} are not signed",
    "null-mx": "{} takes no mail (null MX)",
    "no-mail": "no mail can be sent to {}: it or its MX hosts do not exist",
    "failed": "the MX records of {} cannot be had",
}
#: What was found without DANE is still said for so long after its time while it is looked at anew,
#: and that a domain's DANE cannot be told (seconds).
STALE: Final = 3600.0
#: Usable records of a host that are shown, and hexadecimal digits of each.
_SHOWN: Final = 4
_DIGITS: Final = 16


class Known(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a `DaneState`, until a time (seconds since the epoch).

    `whole` tells that every MX host has usable TLSA records, not just all that could be looked at.
    `some`: at least one has secure TLSA records, usable or not. `steps` is empty where the verdict
    says it all, as for most domains.
    """

    verdict: Verdict
    until: float
    whole: bool = False
    steps: tuple[Step, ...] = ()
    some: bool = False


def known(state: DaneState, until: float) -> Known:
    """What to keep of a look."""
    if state.verdict in _PLAIN and state.look_up_mx:
        return Known(state.verdict, until)
    whole = len(state.mx) <= len(state.hosts) and all(
        host.state in ("usable", "absent") for host in state.hosts
    )
    some = any(host.state in ("usable", "unusable") for host in state.hosts)
    return Known(state.verdict, until, whole, told(state), some)


def renewed(before: Known | None, found: Known) -> Known:
    """What to keep of a look where something is known already.

    A look that saw nothing says nothing: a known "dane" stays until one says otherwise, so that who
    can make the DNS fail cannot have a domain taken for one without. The time of its records is
    over, so that it goes before no policy any more, as where not every MX host is known; without a
    policy the MTA is told to go by records that it has to find itself (RFC 7672).
    """
    if before is None or before.verdict != "dane" or found.verdict not in _TELL_NOTHING:
        return found
    stays = Step("DANE", None, "TLSA records were found before; no look has said otherwise since")
    why = found.steps or _steps("the domain", found)
    return Known("dane", found.until, steps=(*why[:1], stays))


def standing(dane: Known | None, now: float) -> Known | None:
    """What is known of DANE, and may still be said while no look has ended."""
    if dane is None or now < dane.until or dane.verdict == "dane":
        return dane
    return dane if dane.verdict != "failed" and now - dane.until <= STALE else None


def at_once(dane: Known | None, now: float, *, protected: bool) -> bool:
    """Whether an answer waits for no look: what is known is fresh, or that there was no DANE is.

    That there is none may be an old answer: what STS says stands as well (law 6)."""
    if dane is None:
        return False
    if now < dane.until:
        return True
    none = dane.verdict not in ("dane", *_TELL_NOTHING)
    return none and (protected or now - dane.until <= STALE)


def told(state: DaneState) -> tuple[Step, ...]:
    """A look, step by step: each MX host, then the verdict and what would change it."""
    verdict = Step(
        "DANE",
        {"dane": True, "indeterminate": False, "failed": False}.get(state.verdict),
        state.text + _WOULD_CHANGE[state.verdict],
    )
    return (*map(_host_told, state.hosts), verdict)


def _host_told(host: DaneHost) -> Step:
    if host.state == "usable":
        records = ", ".join(_short(record) for record in host.records[:_SHOWN])
        more = f" and {len(host.records) - _SHOWN} more" if len(host.records) > _SHOWN else ""
        beside = f"; unusable: {host.text}" if host.text else ""
        return Step("TLSA", True, f"{host.host}: usable at {host.base}: {records}{more}{beside}")
    if host.state == "unusable":
        return Step("TLSA", False, f"{host.host}: none of the records is usable: {host.text}")
    return Step("TLSA", False if host.state == "failed" else None, host.text)


def _short(record: Tlsa) -> str:
    digits = record.data.hex()
    return f"{record.parameters} {digits[:_DIGITS]}{'...' if len(digits) > _DIGITS else ''}"


def weigh(sts: Decision, dane: Known | None, until: float) -> Decision:
    """The decision for a domain of which STS says `sts`, and DANE `dane` (None: not told in time).

    `until` is how long what is known of DANE may be used (seconds since the epoch).
    """
    if sts.valid_until > until:
        sts = msgspec.structs.replace(sts, valid_until=until)
    if dane is None:
        return sts
    steps = (*sts.steps, *_steps(sts.policy_domain, dane))
    if dane.verdict == "dane" and (dane.whole or sts.outcome != "enforce"):
        # Law 3. The policy stays in the decision: an MTA that validates DANE itself wants it too.
        return msgspec.structs.replace(
            sts, outcome="dane", reason="tlsa-usable", detail="", steps=steps
        )
    if dane.verdict == "indeterminate" and not protects(sts):
        detail = dane.steps[-1].text if dane.steps else ""
        return msgspec.structs.replace(
            sts, outcome="temporary-failure", reason="dnssec-invalid", detail=detail, steps=steps
        )
    # RFC 7672 section 2.2: the hosts that have TLSA records are authenticated by those, and where
    # none is usable TLS is a must all the same; an enforced policy covers all of them.
    tlsa = dane.some and not protects(sts)
    return msgspec.structs.replace(sts, steps=steps, tlsa=tlsa)


def of_dialects(sts: Decision, draft: Decision) -> Decision:
    """The decision for a domain of which RFC 8461 says `sts`, and the first draft `draft`.

    An RFC 8461 policy goes before one of the draft, whatever either says: it is proven always, the
    other one may be the word of whoever forged one DNS answer (law 1 across dialects).
    """
    chosen = draft if sts.policy is None and draft.policy is not None else sts
    return msgspec.structs.replace(
        chosen,
        valid_until=min(sts.valid_until, draft.valid_until),
        steps=(*sts.steps, *draft.steps),
    )


def protects(sts: Decision) -> bool:
    """Whether STS by itself keeps mail from strangers: it is enforced, and nothing else is."""
    return sts.outcome == "enforce"


def _steps(domain: str, dane: Known) -> tuple[Step, ...]:
    if dane.steps:
        return dane.steps
    text = _PLAIN[dane.verdict].format(domain) + _WOULD_CHANGE[dane.verdict]
    return (Step("DANE", False if dane.verdict == "failed" else None, text),)
