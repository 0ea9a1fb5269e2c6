"""Outcomes counted by UTC day, domain, policy and failure (RFC 8460 section 4).

Promises: every outcome is counted once, or in `refused`; memory and rows are bounded however
strangers vary their EHLO names, policies and reasons: beyond the bounds, sessions are counted under
less detail (`folded`), not lost. `take` and `drain` are quick and belong to one thread; what
`drain` gives is written by another, and comes back by `restore` where that fails. What was not yet
drained when the machine dies is lost: drain every few seconds.
Must not: do I/O.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Final

import msgspec

from smtp_sts.policy.organisation import organisational_domain
from smtp_sts.reporting.outcome import Outcome, Trouble
from smtp_sts.store.tallies import Tally
from smtp_sts.tlsrpt import AppliedPolicy, Failure, PolicyResult

DAY: Final = 86400
#: Domains of one day; sessions with more are counted as refused.
MAX_DOMAINS: Final = 500_000
#: Policies of one domain in one day; those beyond share an entry without policy text.
MAX_POLICIES: Final = 32
#: Failures of one policy in one day that are told apart; those beyond share one for each type.
MAX_FAILURES: Final = 200
#: Memory that the texts of one day take, of policies, records and failures (bytes): a policy of
#: 64 KiB for each of a stranger's names would be 100,000 times that. Beyond it texts are left out.
MAX_TEXT: Final = 256 * 1024 * 1024
#: One organisation's names get so much of it: a stranger's policies fold nobody else's details.
TEXT_SHARE: Final = 16
#: What is kept of a failure besides its texts (bytes).
_FAILURE_BYTES: Final = 400
#: EHLO names told apart where all else is the same; further ones are left out.
MAX_EHLO: Final = 3
#: Policies that one `drain` gives at most: bounds the pause on the receiving path.
MAX_BATCH: Final = 2000


class _Count:
    """One policy of one domain and day: what is new since the last drain, and what is known."""

    __slots__ = ("day", "dirty", "domain", "ehlo", "failed", "failures", "policy", "successful")

    def __init__(self, day: int, domain: str, policy: AppliedPolicy) -> None:
        self.day = day
        self.domain = domain
        self.policy = policy
        self.successful = 0
        self.failed = 0
        self.dirty = False
        #: known failures and their sessions since the last drain
        self.failures: dict[Trouble, int] | None = None
        #: how many EHLO names are known of what else is the same
        self.ehlo: dict[Trouble, int] | None = None


class _Domain:
    __slots__ = ("policies", "record")

    def __init__(self) -> None:
        self.policies: dict[AppliedPolicy, _Count] = {}
        self.record = ""


class Aggregate:
    """The counts since the last drain, and which rows there are."""

    def __init__(self) -> None:
        self._days: dict[int, dict[str, _Domain]] = {}
        self._dirty: list[_Count] = []
        #: bytes of texts, by day
        self._text: dict[int, int] = {}
        #: the same by day and organisational domain
        self._of: dict[int, Counter[str]] = {}
        self.outcomes = 0
        #: outcomes of more domains in a day than are kept
        self.refused = 0
        #: outcomes that lost detail to a bound
        self.folded = 0

    @property
    def waiting(self) -> int:
        """Policies with counts that were not drained yet."""
        return len(self._dirty)

    def take(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.outcomes += 1
        count = self._count(int(outcome.at // DAY), outcome.domain, outcome.policy, outcome.record)
        if count is None:
            self.refused += 1
            return
        if not outcome.failed:
            count.successful += 1
            return
        count.failed += 1
        # Section 4: failure types are non-exclusive; a type is counted once for a session.
        for trouble in dict.fromkeys(outcome.troubles):
            self._add(count, trouble, 1)

    def _count(
        self, day: int, domain: str, policy: AppliedPolicy | None, record: str
    ) -> _Count | None:
        domains = self._days.setdefault(day, {})
        known = domains.get(domain)
        if known is None:
            if len(domains) >= MAX_DOMAINS:
                return None
            known = domains[domain] = _Domain()
        if record and record != known.record:
            known.record = (
                record if self._fits(day, domain, sys.getsizeof(record)) else known.record
            )
        # "" where the source knows no policy: to be matched before it is reported
        applied = policy or AppliedPolicy("", domain)
        count = known.policies.get(applied)
        if count is None:
            applied = self._admitted(day, known, domain, applied)
            count = known.policies.get(applied)
        if count is None:
            count = known.policies[applied] = _Count(day, domain, applied)
        if not count.dirty:
            count.dirty = True
            self._dirty.append(count)
        return count

    def _fits(self, day: int, domain: str, size: int) -> bool:
        """Whether there is room for so many bytes of text more; they are taken as kept."""
        whole = size + self._text.get(day, 0)
        of = self._of.setdefault(day, Counter())
        whose = organisational_domain(domain)
        if whole > MAX_TEXT or of[whose] + size > MAX_TEXT // TEXT_SHARE:
            return False
        self._text[day] = whole
        of[whose] += size
        return True

    def _admitted(
        self, day: int, known: _Domain, domain: str, policy: AppliedPolicy
    ) -> AppliedPolicy:
        texts = (*policy.policy_string, *policy.mx_host)
        if len(known.policies) < MAX_POLICIES and (
            not texts or self._fits(day, domain, sum(map(sys.getsizeof, texts)))
        ):
            return policy
        self.folded += 1
        bare = AppliedPolicy(policy.policy_type, policy.policy_domain)
        if bare in known.policies or len(known.policies) < 2 * MAX_POLICIES:
            return bare
        return AppliedPolicy(policy.policy_type, domain)

    def _add(self, count: _Count, trouble: Trouble, sessions: int) -> None:
        failures = count.failures
        if failures is None:
            failures = count.failures = {}
        if trouble not in failures:
            trouble = self._known(count, failures, trouble)
        failures[trouble] = failures.get(trouble, 0) + sessions

    def _known(self, count: _Count, failures: dict[Trouble, int], trouble: Trouble) -> Trouble:
        if trouble.receiving_mx_helo:
            if count.ehlo is None:
                count.ehlo = {}
            bare = msgspec.structs.replace(trouble, receiving_mx_helo="")
            names = count.ehlo.get(bare, 0)
            if names >= MAX_EHLO:
                self.folded += 1
                trouble = bare
            elif len(failures) < MAX_FAILURES:
                count.ehlo[bare] = names + 1
        if trouble not in failures:
            texts = len(trouble.receiving_mx_helo) + len(trouble.additional_information)
            size = _FAILURE_BYTES + texts + len(trouble.failure_reason_code)
            if len(failures) >= MAX_FAILURES or not self._fits(count.day, count.domain, size):
                self.folded += 1
                return Trouble(trouble.result_type)
        return trouble

    def drain(self, limit: int = MAX_BATCH) -> list[Tally]:
        """What was counted since, of at most `limit` policies; empty when there is nothing."""
        taken, self._dirty = self._dirty[:limit], self._dirty[limit:]
        return [self._taken(count) for count in taken]

    def _taken(self, count: _Count) -> Tally:
        new: list[Failure] = []
        failures = count.failures or {}
        for trouble, sessions in failures.items():
            if sessions:
                new.append(_failure(trouble, sessions))
                failures[trouble] = 0
        result = PolicyResult(count.policy, count.successful, count.failed, tuple(new))
        count.successful = count.failed = 0
        count.dirty = False
        record = self._days[count.day][count.domain].record
        return Tally(count.day, count.domain, record, result)

    def restore(self, batch: list[Tally]) -> None:
        """Take back what could not be written."""
        for tally in batch:
            count = self._count(tally.day, tally.domain, tally.result.policy, tally.record)
            if count is None:  # cannot be: its domain is known since it was taken
                self.refused += tally.result.successful + tally.result.failed
                continue
            count.successful += tally.result.successful
            count.failed += tally.result.failed
            for failure in tally.result.failures:
                self._add(count, _trouble(failure), failure.failed_session_count)

    def know(self, day: int, domain: str, result: PolicyResult) -> None:
        """Learn at start which rows are there already, so that the bounds hold over restarts."""
        domains = self._days.setdefault(day, {})
        known = domains.setdefault(domain, _Domain())
        count = known.policies.setdefault(result.policy, _Count(day, domain, result.policy))
        for failure in result.failures:
            self._add(count, _trouble(failure), 0)

    def forget_before(self, day: int) -> None:
        """Let go of what is known of earlier days, but for what still waits to be drained."""
        waiting = {count.day for count in self._dirty}
        for old in [d for d in self._days if d < day and d not in waiting]:
            del self._days[old]
            self._text.pop(old, None)
            self._of.pop(old, None)


def _failure(trouble: Trouble, sessions: int) -> Failure:
    return Failure(
        trouble.result_type,
        sessions,
        trouble.sending_mta_ip,
        trouble.receiving_mx_hostname,
        trouble.receiving_mx_helo,
        trouble.receiving_ip,
        trouble.additional_information,
        trouble.failure_reason_code,
    )


def _trouble(failure: Failure) -> Trouble:
    return Trouble(
        failure.result_type,
        failure.sending_mta_ip,
        failure.receiving_mx_hostname,
        failure.receiving_mx_helo,
        failure.receiving_ip,
        failure.additional_information,
        failure.failure_reason_code,
    )
