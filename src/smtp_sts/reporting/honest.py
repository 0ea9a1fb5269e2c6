"""Sessions under a policy in testing mode, held against our own looks at the MX hosts. No I/O.

In testing mode an MTA delivers whatever it meets, and so does not look: Postfix calls a session
good whose certificate bears another name. To report that would tell a domain that it is safe to
enforce when it is not. So our looks of the day at the hosts that mail goes to (`mx_check`) decide:

* All were good: what the MTA calls good is good.
* All failed: then every session failed the policy that was to be tested (RFC 8461 section 5), and
  is reported as failed, of the type that the looks have (RFC 8460 section 4.3). Host and address
  stand there where all looks have the same: a session is not ascribed to a host by guess. Where
  the types differ the type is `validation-failure`, and the reason names them (section 4.3.3).
* Some were good, others not: which sessions met which is not known, and they are left out. Our
  looks stand in for them: they too are sessions of this sender under this policy (section 4.4,
  "(attempted) sessions"), and so the domain learns which of its hosts is wrong.
* Nothing was seen: the sessions are left out. Section 4.3.4 asks for no report of a host that
  could not be reached.

An MX host that the policy does not name fails whatever its certificate (RFC 8461 section 4.1).
What the MTA itself calls failed stays as it is. All that rests on our looks is marked in
`failure-reason-code`.

Promises: what is left out is counted; no session is counted twice. Policies of the first draft are
not touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from smtp_sts.policy.pattern import matches
from smtp_sts.store.checks import Check
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult
from smtp_sts.tlsrpt.results import CHECKED, GENERAL_FAILURE, MX_MISMATCH

_TESTING: Final = re.compile(r"mode:\s*testing\s*")
#: MX hosts that a reason names.
_NAMED: Final = 5


class Checked(msgspec.Struct, frozen=True):
    """What is to be reported. `left_out` counts sessions of which it could not be told, `looks`
    those of ours that stand in for them."""

    results: list[PolicyResult]
    left_out: int = 0
    looks: int = 0

    @property
    def note(self) -> str:
        """What was left out, for people; "" where nothing was."""
        if not self.left_out:
            return ""
        why = "our looks at the MX hosts differ" if self.looks else "we could not look"
        return f"{self.left_out} sessions in testing mode are left out: {why}"


def is_testing(policy: AppliedPolicy) -> bool:
    """Whether this is a policy of RFC 8461 in testing mode."""
    return policy.policy_type == "sts" and any(map(_TESTING.fullmatch, policy.policy_string))


def with_checks(results: Iterable[PolicyResult], checks: Sequence[Check]) -> Checked:
    """A day's results of one domain, after its looks of that day."""
    kept: list[PolicyResult] = []
    left_out = looks = 0
    for result in results:
        if not is_testing(result.policy) or not result.successful:
            kept.append(result)
            continue
        held = [_held(check, result.policy) for check in checks if check.looks > 0]
        bad = [check for check in held if check.result_type]
        if held and not bad:
            kept.append(result)
            continue
        if bad and len(bad) == len(held):
            kept.append(_moved(result, bad))
            continue
        left_out += result.successful
        looks += sum(check.looks for check in held)
        kept.append(_stood_in(result, held, bad))
    return Checked(kept, left_out, looks)


def _held(check: Check, policy: AppliedPolicy) -> Check:
    """The look under the policy: RFC 8461 section 4.1."""
    if any(matches(pattern, check.host) for pattern in policy.mx_host):
        return check
    return msgspec.structs.replace(check, result_type=GENERAL_FAILURE, reason=MX_MISMATCH)


def _moved(result: PolicyResult, bad: Sequence[Check]) -> PolicyResult:
    """Every session has failed."""
    types = {check.result_type for check in bad}
    if len(types) == 1:
        kind, reason = bad[0].result_type, _same(check.reason for check in bad)
    else:
        told = dict.fromkeys(f"{check.host} {check.result_type}" for check in bad)
        more = ", ..." if len(told) > _NAMED else ""
        kind, reason = GENERAL_FAILURE, "each MX host fails: " + ", ".join([*told][:_NAMED]) + more
    failure = Failure(
        kind,
        result.successful,
        receiving_mx_hostname=_same(check.host for check in bad),
        receiving_mx_helo=_same(check.helo for check in bad),
        receiving_ip=_same(check.address for check in bad),
        failure_reason_code=CHECKED + (reason or "each MX host fails so"),
    )
    return PolicyResult(
        result.policy, 0, result.failed + result.successful, (*result.failures, failure)
    )


def _stood_in(result: PolicyResult, held: Sequence[Check], bad: Sequence[Check]) -> PolicyResult:
    """The sessions that the MTA calls good are left out; our looks are there instead."""
    failures = [
        Failure(
            check.result_type,
            check.looks,
            receiving_mx_hostname=check.host,
            receiving_mx_helo=check.helo,
            receiving_ip=check.address,
            failure_reason_code=CHECKED + check.reason,
        )
        for check in bad
    ]
    failed = sum(check.looks for check in bad)
    good = sum(check.looks for check in held) - failed
    return PolicyResult(result.policy, good, result.failed + failed, (*result.failures, *failures))


def _same(texts: Iterable[str]) -> str:
    """What all are, or ""."""
    different = set(texts)
    return different.pop() if len(different) == 1 else ""
