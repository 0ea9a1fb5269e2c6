"""What one process knows of the policy of one domain in one dialect. No I/O.

Values only: a `State` is never changed, `machine.step` makes the next one. All times are seconds
since the epoch, by the clock that came in with the events.

What can be true of a state, whatever happens:

* `cached` is the last policy that was fetched (and, in RFC 8461, authenticated). It applies until
  it expires and not one moment longer, but is not forgotten then: a clock that was ahead for a
  moment and is set back finds it again. `absent` says why no policy applies, and counts only where
  none does; `NO_REASON` there means that nobody has looked since the last policy came.
* `unread` means that the store has not answered for this domain: that nothing is cached is then not
  known to be so, and each question asks the store again. `reading` is the number of the read that
  is under way, 0 where none is; `asked`: an MTA waits for it, not only the upkeep.
* `look` is the one look at the domain that is under way, `work` the one proof or check of MX hosts
  behind it (first draft only). What comes back bears the number it was asked for with; an answer
  with another number is late, and nothing follows from it.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from smtp_sts.policy import DraftRecord, Policy
from smtp_sts.resolver.decision import Step


class Reason(msgspec.Struct, frozen=True, gc=False):
    """Why something is so: `code` is a slug of `decision.REASONS` or `net.failure`, `cause` a finer
    slug, `sentence` is for people. `declared` is the beginning of a policy that is not valid."""

    code: str
    cause: str = ""
    sentence: str = ""
    declared: str = ""

    @property
    def detail(self) -> str:
        """Cause and sentence in one text, as `query --json` and the log have them."""
        return f"{self.cause}: {self.sentence}" if self.cause else self.sentence


#: Where nothing was found out yet.
NO_REASON: Final = Reason("")


class Cached(msgspec.Struct, frozen=True, gc=False):
    """A policy with the times of its life.

    `id` is that of the TXT record (RFC 8461), or a digest of the record (first draft).
    `authenticated` and `met` are always true in RFC 8461, whose policies come over authenticated
    HTTPS and bind at once; in the first draft a first policy is believed unproven (section 3.3),
    and binds no mail before an MX host was seen to meet it (section 3.4).
    """

    policy: Policy | DraftRecord
    id: str
    fetched_at: float
    expires_at: float
    refresh_at: float
    used_at: float
    authenticated: bool = True
    met: bool = True


class Failure(msgspec.Struct, frozen=True, gc=False):
    """A look that found no policy, and when it did."""

    at: float
    reason: Reason


NO_FAILURE: Final = Failure(0.0, NO_REASON)


class Seen(msgspec.Struct, frozen=True):
    """The record of the first draft that a look saw.

    `secure`: a trusted resolver has validated the answer with DNSSEC; `ttl` in seconds.
    """

    record: DraftRecord
    secure: bool
    ttl: int


class Look(msgspec.Struct, frozen=True):
    """A look that is under way.

    `refresh`: the policy is fetched whatever the record says (RFC 8461 section 10.2: a refresh must
    not depend on DNS). `record_id` is that of the record that was seen, "" before and where there
    is none; `fetched_before` is when the policy was fetched that was cached when we began to wait
    for our turn.
    """

    number: int
    refresh: bool
    record_id: str = ""
    fetched_before: float = 0.0


class Work(msgspec.Struct, frozen=True):
    """A proof or a check of MX hosts that is under way, for the record of a look (first draft).

    `replaces`: the record is another one than the cached policy's, and takes its place if all goes
    well; `against` is the policy that was cached when the work began. `refresh` is that of the look
    that brought the record; `prove_next`: a proof follows the check.
    """

    number: int
    doing: Literal["prove", "check"]
    seen: Seen
    against: DraftRecord
    replaces: bool = False
    refresh: bool = False
    prove_next: bool = False


class State(msgspec.Struct, frozen=True, gc=False):
    """All that is known; see the top of this file for what can be true together.

    `next_check`: the record is asked for again then; `retry_at`: no host is asked for the policy
    before; `failures`: attempts in a row that failed; `last_failure`: the last look that found no
    policy; `fetch_failure`: why the last fetch failed; `told`: the decision that the log tells of;
    `number`: the last number given out. Of the first draft alone: `next_mx_check`, and `misses`,
    checks in a row in which no MX host met the policy.
    """

    unread: bool = True
    reading: int = 0
    asked: bool = False
    cached: Cached | None = None
    absent: Reason = NO_REASON
    next_check: float = 0.0
    retry_at: float = 0.0
    failures: int = 0
    last_failure: Failure = NO_FAILURE
    fetch_failure: Reason = NO_REASON
    used_at: float = 0.0
    look: Look | None = None
    work: Work | None = None
    number: int = 0
    told: Policy | DraftRecord | tuple[str, ...] = ()
    look_steps: tuple[Step, ...] = ()
    proof_steps: tuple[Step, ...] = ()
    mx_steps: tuple[Step, ...] = ()
    next_mx_check: float = 0.0
    misses: int = 0

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was seen on the way here, for people."""
        if not self.proof_steps and not self.mx_steps:
            return self.look_steps
        return (*self.look_steps, *self.proof_steps, *self.mx_steps)

    @property
    def idle(self) -> bool:
        """Whether nothing that was asked for is under way."""
        return self.look is None and self.work is None


#: Of a domain that nobody has asked for yet.
NEW: Final = State()


def unexpired(state: State, now: float) -> Cached | None:
    """The cached policy, unless its life is over (RFC 8461 section 3.2, max_age; law 2)."""
    cached = state.cached
    return cached if cached is not None and now < cached.expires_at else None
