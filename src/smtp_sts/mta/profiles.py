"""Reply profiles: a decision in the words of each MTA. No I/O.

Promises: what is rendered is made of validated parts alone (law 5), is never an empty `OK `, and
never longer than its MTA takes (`limits.py`): of a policy that is too long a part of the patterns
is told, never that there is no policy (law 1). Nothing a reply profile cannot express is guessed
at. No reply needs anything that the operator has not switched on in the MTA (law 4): DANE is said
to none but those who ask by a map name that has `dane` in it, for a Postfix with
smtp_dns_support_level unset defers mail that it is told to send by `dane-only`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from smtp_sts.mta.limits import POSTFIX_REPLY, SENDMAIL_LIST, fitting
from smtp_sts.policy import Policy
from smtp_sts.resolver.decision import Decision, enforced, without_dane

NOT_FOUND: Final = "NOTFOUND "
#: Ask the MX host for the certificate of its own name.
_SNI: Final = " servername=hostname"
_SECURE: Final = "OK secure match="
#: What is left of a reply of Postfix's for the list in `match=`, bytes.
_POSTFIX_LIST: Final = POSTFIX_REPLY - len(_SECURE) - len(_SNI)
#: `stsmx`: the policy names this MX host.
ALLOWED: Final = "OK allowed"


def secure(policy: Policy, room: int) -> str:
    """The level for enforced STS, with as many patterns as have room in the list, bytes."""
    # `*.example.com` is `.example.com` to Postfix and Sendmail. Postfix takes that for any depth,
    # Sendmail for one label (RFC 8461 section 4.1); `postfix-tlsrpt` closes the gap where the
    # Postfix can. servername= comes last: Sendmail wants it so.
    match = ":".join(pattern.removeprefix("*") for pattern in fitting(policy.mx, room))
    return f"{_SECURE}{match}{_SNI}"


def _attributes(decision: Decision) -> str:
    # Postfix 3.10.0 to 3.10.5 crash on policy_type=sts without a policy_string and an
    # mx_host_pattern, so both go out or none. policy_failure= is never sent: it makes some panic.
    policy = decision.policy
    assert policy is not None
    lines = policy.lines() if decision.draft is None else (decision.draft.text,)
    parts = ["policy_type=sts", f"policy_domain={decision.policy_domain}"]
    parts += [f"mx_host_pattern={pattern}" for pattern in policy.mx]
    parts += [f"{{ policy_string = {line} }}" for line in lines]
    return " ".join(parts)


def _told_whole(decision: Decision) -> bool:
    """Whether Postfix may be told the policy besides the level.

    Of the first draft: a pattern covers any depth, which `mx_host_pattern` cannot say and `match=`
    does; and `OK may` instead of `NOTFOUND` can lower what the operator has configured, which
    takes a policy that has proven to be the domain's (law 1).
    """
    policy, draft = decision.policy, decision.draft
    if policy is None or not policy.mx or decision.outcome not in ("enforce", "testing"):
        return False
    if draft is None:
        return True
    wide = any(pattern.startswith("*.") for pattern in policy.mx)
    return not wide and (decision.outcome == "enforce" or draft.authenticated)


def postfix(decision: Decision) -> str:
    """Any Postfix, as it comes: the level that a rule fixes, `secure` for enforced STS."""
    return postfix_dane(without_dane(decision))


def postfix_dane(decision: Decision) -> str:
    """A Postfix with smtp_dns_support_level = dnssec: `dane-only` for DANE besides; `dane` where
    only some MX hosts have TLSA records, or none that is usable, and no policy is enforced."""
    if decision.level:
        return f"OK {decision.level}"
    if decision.outcome == "dane":  # RFC 7672: Postfix validates the TLSA records itself
        return "OK dane-only"
    if decision.outcome == "temporary-failure":
        return f"TEMP the DANE state of {decision.policy_domain} cannot be determined"
    if decision.tlsa:
        # RFC 7672 section 2.2: at this level Postfix does right by each MX host: by its TLSA
        # records, with `encrypt` where none of them is usable, and with `may` where it has none.
        return "OK dane"
    if decision.outcome != "enforce" or decision.policy is None:
        return NOT_FOUND
    return secure(decision.policy, _POSTFIX_LIST)


def postfix_no_sni(decision: Decision) -> str:
    """Postfix before 3.4: as `postfix`, without the attribute that it takes for an error."""
    return postfix(decision).removesuffix(_SNI)


def postfix_tlsrpt(decision: Decision) -> str:
    """Postfix 3.10 and later: the policy too, so that Postfix can match and report by it."""
    return postfix_dane_tlsrpt(without_dane(decision))


def postfix_dane_tlsrpt(decision: Decision) -> str:
    """Both: Postfix 3.10 and later, with smtp_dns_support_level = dnssec."""
    policy = decision.policy
    if policy is None or decision.tlsa or not _told_whole(decision):
        return postfix_dane(decision)
    level = secure(policy, _POSTFIX_LIST) if decision.outcome == "enforce" else f"OK may{_SNI}"
    reply = f"{level} {_attributes(decision)}"
    return reply if len(reply) <= POSTFIX_REPLY else postfix_dane(decision)


def sts(decision: Decision) -> str:
    """Sendmail 8.17 and later (FEATURE(sts)): the level `secure` is all it knows."""
    policy = enforced(decision)
    return NOT_FOUND if policy is None else secure(policy, SENDMAIL_LIST)


def stsmx(decision: Decision, host: str) -> str:
    """Sendmail too, about one MX host: whether an enforced policy names it (RFC 8461 section 4.1).

    docs/sendmail.md has the rules that ask, for policies that `sts` cannot tell whole.
    """
    policy = enforced(decision)
    return ALLOWED if policy is not None and policy.matches(host) else NOT_FOUND


Profile = Callable[[Decision], str]

PROFILES: Final[dict[str, Profile]] = {
    "postfix": postfix,
    "postfix-no-sni": postfix_no_sni,
    "postfix-tlsrpt": postfix_tlsrpt,
    "postfix-dane": postfix_dane,
    "postfix-dane-tlsrpt": postfix_dane_tlsrpt,
    "sts": sts,
}
#: The profiles that say `dane-only`, and let mail wait where TLSA records cannot be looked up, by
#: what they are without.
WITHOUT_DANE: Final[dict[str, str]] = {
    "postfix-dane": "postfix",
    "postfix-dane-tlsrpt": "postfix-tlsrpt",
}
#: The map names of postfix-tlspol, whose users have smtp_dns_support_level = dnssec.
ALIASES: Final[dict[str, str]] = {
    "QUERY": "postfix-dane",
    "QUERYwithTLSRPT": "postfix-dane-tlsrpt",
}


def profile_name(map_name: str) -> str:
    """The profile a map name stands for; `postfix` for one that is not known."""
    name = ALIASES.get(map_name, map_name)
    return name if name in PROFILES else "postfix"


def profile_of(map_name: str) -> Profile:
    """How that profile renders a decision."""
    return PROFILES[profile_name(map_name)]
