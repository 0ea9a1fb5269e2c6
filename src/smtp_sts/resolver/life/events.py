"""What can happen to a domain, and what the machine can ask for because of it. No I/O.

Every event bears the time it happened at (seconds since the epoch), and the answers to what was
asked for bear its number. Effects that have a number are answered by one event with that number, at
some time or never; the others are carried out and not answered.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from smtp_sts.policy import Authentication, DraftRecord, Policy
from smtp_sts.resolver.decision import Step
from smtp_sts.resolver.life.state import Cached, Reason

# -- events -----------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened at a time."""

    now: float


class Answer(Event, frozen=True, kw_only=True):
    """What was asked for with a number has come."""

    number: int


class Asked(Event, frozen=True):
    """An MTA wants to know."""


class UpkeepBegins(Event, frozen=True):
    """A refresh or a renewal is to follow: the store is asked first."""


class StoreRead(Answer, frozen=True):
    """The store has answered: it keeps this policy, or none that can be read."""

    cached: Cached | None


class StoreFailed(Answer, frozen=True):
    """The store could not be read: what it keeps is not known."""


class Shared(Event, frozen=True):
    """The store holds this policy now: another worker or daemon has put it there."""

    cached: Cached


class RefreshDue(Event, frozen=True):
    """The time for the daily refresh has come (RFC 8461 section 10.2)."""


class RenewalWanted(Event, frozen=True):
    """An operator wants the policy fetched now; the time between attempts does not count."""


class Purged(Event, frozen=True):
    """An operator wants everything forgotten."""


class ClockSet(Event, frozen=True):
    """The clock was set forward by so many seconds, or back where they are negative; `now` is by
    the new one."""

    seconds: float


class MailFailed(Event, frozen=True):
    """Mail to the domain met with a failure."""


class AnswerOverdue(Event, frozen=True):
    """An answer could not wait for the look any longer, and let the mail through (law 4)."""


class StoreReplaced(Event, frozen=True):
    """The store has lost what it had."""


class RecordSeen(Answer, frozen=True):
    """The record of RFC 8461 was looked up; `id` is "" where there is none, for `reason`."""

    id: str = ""
    reason: Reason = Reason("")
    steps: tuple[Step, ...] = ()


class TurnCame(Answer, frozen=True):
    """No other daemon fetches this policy; `kept` is what the store holds by now, if we asked."""

    kept: Cached | None = None


class PolicyFetched(Answer, frozen=True):
    """A valid policy came over authenticated HTTPS. `spread` (0 to 1) places its refresh; `text`
    is what was served, "" where that is `policy` rendered."""

    policy: Policy
    spread: float
    steps: tuple[Step, ...] = ()
    text: str = ""


class FetchFailed(Answer, frozen=True):
    """A policy host was asked in vain."""

    reason: Reason
    steps: tuple[Step, ...] = ()


class DraftSeen(Answer, frozen=True):
    """The record of the first draft was looked up; None where there is none, for `reason`.

    `secure`: a trusted resolver has validated the answer; `ttl` in seconds; `spread` as in
    `PolicyFetched`.
    """

    record: DraftRecord | None
    spread: float
    secure: bool = False
    ttl: int = 0
    reason: Reason = Reason("")
    steps: tuple[Step, ...] = ()


class ProofCame(Answer, frozen=True):
    """A record of the first draft has proven to be the domain's, or not, for `reason`.

    `fetched`: a host was asked for it.
    """

    good: bool
    spread: float
    reason: Reason = Reason("")
    fetched: bool = False
    steps: tuple[Step, ...] = ()


class MxChecked(Answer, frozen=True):
    """The MX hosts were held against a record of the first draft (section 3.4).

    `met`: one keeps to it; `failed`: those that could be seen do not, for `failure`; `unknown`:
    none could be seen.
    """

    verdict: Literal["met", "failed", "unknown"]
    spread: float
    failure: str = ""
    steps: tuple[Step, ...] = ()


class Broke(Answer, frozen=True):
    """What was asked for will not come: refused for want of a place, or a defect of ours, which
    `error` tells."""

    error: str = ""


# -- effects ----------------------------------------------------------------------------------


class Effect(msgspec.Struct, frozen=True):
    """Something the machine wants done."""


class Errand(Effect, frozen=True):
    """Something that takes its time, and is answered by one event with its number."""

    number: int


class Read(Errand, frozen=True):
    """Ask the store: `StoreRead` or `StoreFailed`."""


class LookUp(Errand, frozen=True):
    """Look up the record: `RecordSeen`, or `DraftSeen`."""


class AwaitTurn(Errand, frozen=True):
    """Wait until no other daemon fetches this policy, so many seconds at most: `TurnCame`."""

    patience: float


class Fetch(Errand, frozen=True):
    """Fetch the policy: `PolicyFetched` or `FetchFailed`."""


class Prove(Errand, frozen=True):
    """Hold a record against a mechanism of the first draft (section 3.3): `ProofCame`."""

    record: DraftRecord
    by: Authentication | None
    secure: bool


class CheckMx(Errand, frozen=True):
    """Hold the MX hosts against a record of the first draft (section 3.4): `MxChecked`."""

    record: DraftRecord


class Save(Effect, frozen=True):
    """Put a policy into the store; who waits for an answer waits for that too, for a moment.

    `text` is what was served, which only the store keeps; "" where that is the policy rendered."""

    cached: Cached
    text: str = ""


class SaveAgain(Effect, frozen=True):
    """Put a policy into the store with the next batch."""

    cached: Cached


class Touch(Effect, frozen=True):
    """Note in the store that the policy was asked for now."""

    when: float


class Postpone(Effect, frozen=True):
    """Put off the next refresh in the store, of a policy fetched at `before` or earlier."""

    until: float
    before: float


class RepliesAreStale(Effect, frozen=True):
    """The decision has changed: what was made ready for MTAs is void."""


class Count(Effect, frozen=True):
    """One more of something."""

    name: str


#: What the log tells of: `Tell`.
What = Literal[
    "policy",
    "no-policy",
    "refresh-failed",
    "draft-policy",
    "draft-unproven-policy",
    "draft-met",
    "draft-no-policy",
    "draft-unproven",
    "draft-replacement-unproven",
    "draft-failed",
]


class Tell(Effect, frozen=True):
    """A line of the log: what happened, a `Reason` where there is one, and how often in a row."""

    what: What
    reason: Reason = Reason("")
    cached: Cached | None = None
    failures: int = 0


Effects = tuple[Effect, ...]
