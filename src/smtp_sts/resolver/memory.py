"""What one process remembers of domains, bounded in number and in bytes.

Promises: never more than `STATES_LIMIT` domains nor `STATES_BYTES` of what strangers can make
large; those that were asked for longest ago go first, and none for which something is under way.
What goes is in the store. Must not: know what a state means.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from smtp_sts.policy import DraftRecord, NextHop, Policy
from smtp_sts.resolver.dane_looks import Looking
from smtp_sts.resolver.decision import Step
from smtp_sts.resolver.life.state import NEW, State
from smtp_sts.resolver.precedence import Known

#: Domains that are remembered.
STATES_LIMIT: Final = 50_000
#: And what they may weigh together, bytes: a policy of 64 KiB takes half a megabyte in memory.
STATES_BYTES: Final = 128 * 1024 * 1024
#: What a short string takes besides its text, bytes.
_STRING: Final = 57
#: A record of the first draft weighs about so much more than its text.
_RECORD: Final = 8
#: Next hops of one domain, beside the mail domain itself, whose DANE is remembered.
MAX_WAYS: Final = 16


class Life:
    """The state of a domain in one dialect, and who works on it or waits for it."""

    __slots__ = ("began", "clock_moved", "fetched_at", "state", "tasks", "waiters")

    def __init__(self) -> None:
        self.state: State = NEW
        #: what is under way
        self.tasks: tuple[asyncio.Task[None], ...] = ()
        #: when what is waited for began, by the loop's clock
        self.began = 0.0
        #: when this process last fetched a policy itself (seconds since the epoch)
        self.fetched_at = 0.0
        #: how far the clock had been set when the times of the state were right (`Runner.life`)
        self.clock_moved = 0.0
        self.waiters: list[asyncio.Future[None]] | None = None


class Way:
    """What is known of DANE for one next hop, and who looks."""

    __slots__ = ("dane", "look")

    def __init__(self) -> None:
        self.dane: Known | None = None
        self.look: Looking | None = None


class Domain(Way):
    """What is known of a domain: of its policy in each dialect, of DANE for mail to the domain
    itself, and for each other way that mail is sent there (a smart host, another port)."""

    __slots__ = ("_others", "life", "name", "other", "weight")

    def __init__(self, name: str, dialects: int) -> None:
        super().__init__()
        self.name = name
        #: most domains have none
        self._others: dict[NextHop, Way] | None = None
        #: in the dialects that are looked for; there are two at most, and one costs no tuple
        self.life = Life()
        self.other = Life() if dialects > 1 else None
        self.weight = 0

    @property
    def lives(self) -> tuple[Life, ...]:
        """The lives in the dialects that are looked for, in their order."""
        return (self.life,) if self.other is None else (self.life, self.other)

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        looks = any(way.look is not None for way in self.ways())
        return looks or any(life.tasks or life.waiters for life in self.lives)

    def ways(self) -> Iterator[Way]:
        """All of which something may be known."""
        yield self
        if self._others is not None:
            yield from self._others.values()

    def way(self, where: NextHop) -> Way:
        """That of a next hop of this domain; new where it was not asked for before."""
        if where.plain:
            return self
        if self._others is None:
            self._others = {}
        found = self._others.get(where)
        if found is None:
            idle = (one for one, way in self._others.items() if way.look is None)
            if len(self._others) >= MAX_WAYS and (oldest := next(idle, None)) is not None:
                del self._others[oldest]
            found = self._others[where] = Way()
        return found


class Memory:
    """The domains of one process."""

    def __init__(self, dialects: int) -> None:
        self._dialects = dialects
        self._domains: OrderedDict[str, Domain] = OrderedDict()
        #: what all of them weigh, bytes
        self.weight = 0

    def __len__(self) -> int:
        return len(self._domains)

    def __iter__(self) -> Iterator[Domain]:
        return iter(self._domains.values())

    def find(self, name: str) -> Domain | None:
        """What is remembered of a domain."""
        return self._domains.get(name)

    def of(self, name: str) -> Domain:
        """What is remembered of a domain that is asked for now; new where nothing is."""
        domain = self._domains.get(name)
        if domain is None:
            domain = self._domains[name] = Domain(name, self._dialects)
            self.weigh(domain)
        else:
            self._domains.move_to_end(name)
        return domain

    def weigh(self, domain: Domain) -> None:
        """Something new is known of a domain: others go where that is too much.

        Of one that has gone meanwhile nothing is counted: that would never be given back.
        """
        if self._domains.get(domain.name) is not domain:
            return
        before, domain.weight = domain.weight, _weight(domain)
        self.weight += domain.weight - before
        while len(self._domains) > STATES_LIMIT or self.weight > STATES_BYTES:
            if not self._forget_one(domain):
                return

    def _forget_one(self, but: Domain) -> bool:
        for name, candidate in self._domains.items():
            if candidate is not but and not candidate.busy:
                del self._domains[name]
                self.weight -= candidate.weight
                return True
        return False


def _weight(domain: Domain) -> int:
    """What a stranger can make large, in bytes: patterns and texts."""
    states = [life.state for life in domain.lives]
    dane = sum(_texts(way.dane.steps) for way in domain.ways() if way.dane is not None)
    return dane + sum(_policy(state) + _texts(state.steps) for state in states)


def _policy(state: State) -> int:
    policy = state.cached.policy if state.cached is not None else None
    if isinstance(policy, DraftRecord):
        return _RECORD * len(policy.text)
    mx = policy.mx if isinstance(policy, Policy) else ()
    reasons = (state.absent, state.fetch_failure)
    words = sum(len(reason.sentence) + len(reason.declared) for reason in reasons)
    return sum(map(len, mx)) + _STRING * len(mx) + words


def _texts(steps: Iterable[Step]) -> int:
    return sum(len(step.text) + 2 * _STRING for step in steps)
