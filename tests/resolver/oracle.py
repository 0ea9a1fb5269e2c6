"""What the laws allow, for one domain: it knows which policies were fetched, proven and met when.

Nothing of the machine is used here. Times are seconds since the epoch.

* Law 1: the policy that was fetched last, or that another daemon fetched later, applies until it
  expires, whatever else happens; only an operator's purge ends it before.
* Law 2: it expires `max_age` after its fetch.
* Law 4: where none applies, there is none, and that is said.
* First draft, sections 3.3 to 3.5: who is first is believed; what is proven, or has refused mail,
  is replaced by its own mechanism's word alone, and an enforced policy that was met by such a one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from smtp_sts.policy import DraftRecord, Policy

#: A fetch that lies further in the future is no later one: its clock was wrong (seconds).
FUTURE = 60.0


@dataclass(frozen=True)
class Life:
    """A policy, from its fetch to its end."""

    policy: Policy | DraftRecord
    fetched_at: float
    expires_at: float
    proven: bool = True
    met: bool = True

    @property
    def weak(self) -> bool:
        """Of the first draft: neither proven nor ever refused mail."""
        return not self.proven and not (self.met and self.policy.mode == "enforce")


class Oracle:
    """What must be answered for one domain."""

    def __init__(self) -> None:
        self.life: Life | None = None

    def applies(self, now: float) -> Life | None:
        """The policy in force, None where there is none."""
        return self.life if self.life is not None and now < self.life.expires_at else None

    # -- what was authenticated ---------------------------------------------------------------

    def fetched(self, policy: Policy, now: float) -> None:
        """RFC 8461: it came over authenticated HTTPS."""
        self.life = Life(policy, now, now + policy.max_age)

    def shared(self, other: Life, now: float) -> None:
        """Another daemon has put it into the store."""
        if other.expires_at > now and other.fetched_at <= now + FUTURE:
            self._instead(other, now)

    def stored(self, kept: Life, now: float) -> None:
        """The store holds it, as we have put it there, or another daemon: it was there first."""
        life = self.applies(now)
        if life is None or now < kept.expires_at:
            self.life = kept
        if life is not None and now < kept.expires_at:
            self._instead(life, now)

    def _instead(self, other: Life, now: float) -> None:
        life = self.applies(now)
        if life is None:
            self.life = other
        elif isinstance(life.policy, Policy):
            if other.fetched_at > life.fetched_at:
                self.life = other
        elif other.policy == life.policy and abs(other.fetched_at - life.fetched_at) < 0.001:
            if (other.proven, other.met) > (life.proven, life.met):
                self.life = other
        elif other.proven != life.proven:
            self.life = other if other.proven else life
        elif not other.proven and other.met != life.met:
            self.life = other if other.met else life
        elif other.fetched_at > life.fetched_at and (other.proven or life.weak):
            self.life = other

    # -- first draft --------------------------------------------------------------------------

    def seen(self, record: DraftRecord, now: float, ttl: int, *, secure: bool) -> None:
        """A record was seen in the DNS: it counts where nothing stands against it."""
        life = self.applies(now)
        if life is None or (life.policy != record and life.weak):
            by = record.authentication
            proven = by is not None and by.mechanism == "dnssec" and secure
            self.life = self._draft(record, now, ttl, proven=proven, met=False)

    def proven(self, record: DraftRecord, against: DraftRecord, now: float, ttl: int) -> None:
        """A record has proven itself by the mechanism of `against`."""
        life = self.applies(now)
        if life is None:
            self.life = self._draft(record, now, ttl, proven=True, met=False)
        elif life.policy != against:
            return  # that is not the policy any more which it would replace
        elif life.policy == record:
            self.life = self._draft(record, now, ttl, proven=True, met=life.met)
        elif not (record.mode == life.policy.mode == "enforce" and life.met):
            self.life = self._draft(record, now, ttl, proven=True, met=False)

    def met(self, record: DraftRecord, now: float) -> None:
        """An MX host keeps to the policy in force."""
        life = self.applies(now)
        if life is not None and life.policy == record:
            self.life = replace(life, met=True)

    def met_after_proof(
        self, record: DraftRecord, against: DraftRecord, now: float, ttl: int, *, met: bool
    ) -> None:
        """A record that was proven to replace `against` was held against the MX hosts."""
        life = self.applies(now)
        if life is None or (life.policy == against and met):
            self.life = self._draft(record, now, ttl, proven=True, met=met)

    @staticmethod
    def _draft(record: DraftRecord, now: float, ttl: int, *, proven: bool, met: bool) -> Life:
        lifetime = record.lifetime or min(max(ttl, 60), 3600)
        return Life(record, now, now + lifetime, proven, met)

    def purged(self) -> None:
        """An operator has made everything forgotten."""
        self.life = None
