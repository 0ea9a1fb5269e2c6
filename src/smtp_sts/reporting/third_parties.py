"""How many reports a third party gets because strangers name it. No I/O.

RFC 8460 asks a third party for no consent: whoever writes its address into a `_smtp._tls` record
has our reports sent there (section 3; RFC 7489 section 7.1 has a check for DMARC, RFC 8460 none).
So each organisation (`policy/organisation.py`) that reports are about has a number of deliveries a
UTC day to each other organisation, whatever names below its own it uses. Its own hosts are not
bounded by this, and neither is what many organisations send to the one that reads their reports for
them. Promises: what is beyond is skipped with the reason, never dropped in silence. Must not:
outlive the process. Each process of a fleet counts for itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from smtp_sts.policy.organisation import organisational_domain
from smtp_sts.store.outbox import Planned

#: Deliveries (a part to a destination each) of a UTC day from one organisation to another.
DELIVERIES_A_DAY: Final = 50
#: Pairs of organisations that are remembered of a day; with more nothing goes to further ones.
MAX_PAIRS: Final = 1_000_000


class ThirdParties:
    """What was planned to third parties on the day that goes on."""

    def __init__(self) -> None:
        self._day = -1
        self._planned: Counter[tuple[str, str]] = Counter()

    def admit(
        self, today: int, domain: str, destinations: Iterable[Planned], parts: int
    ) -> list[Planned]:
        """The destinations of a report on `domain`, of so many parts; skipped where its
        organisation has had what it may send there `today` (days since the epoch)."""
        if today != self._day:
            self._day = today
            self._planned.clear()
        return [self._admitted(domain, to, parts) for to in destinations]

    def _admitted(self, domain: str, to: Planned, parts: int) -> Planned:
        if to.skipped:
            return to
        whose = organisational_domain(domain)
        host = to.host or to.uri.rpartition("@")[2]
        other = organisational_domain(host)
        if other == whose:
            return to
        pair = (whose, other)
        number = len(to.parts) or parts
        # One report of many parts goes as a whole, if it is the first.
        before = self._planned.get(pair, 0)
        full = before and before + number > DELIVERIES_A_DAY
        if full or (not before and len(self._planned) >= MAX_PAIRS):
            why = f"{other} gets no more than {DELIVERIES_A_DAY} deliveries a day for {whose}"
            return msgspec.structs.replace(to, skipped=why)
        self._planned[pair] = before + number
        return to
