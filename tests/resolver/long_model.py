"""`make model`: the model and fresh seeds, in turns, for as long as one says.

Prints how many steps of histories it has taken and how many seeds it has played; ends with status 1
and says what it found where something is not as the laws have it.
"""

from __future__ import annotations

import random
import sys
import time

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from . import history
from .seeded_play import play
from .test_life_model import Draft00, Rfc8461

#: Histories, and seeds, of one turn.
HISTORIES = 100
SEEDS = 200


def main(minutes: float) -> int:
    """Play until the time is over."""
    end = time.monotonic() + 60.0 * minutes
    chosen = settings(
        max_examples=HISTORIES,
        stateful_step_count=80,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    seeds, first = 0, random.randrange(10**9)
    while time.monotonic() < end:
        for machine in (Rfc8461, Draft00):
            run_state_machine_as_test(machine, settings=chosen)
        for seed in range(first + seeds, first + seeds + SEEDS):
            try:
                play(seed)
            except BaseException:
                print(f"seed {seed}:", file=sys.stderr)
                raise
        seeds += SEEDS
    print(f"{history.taken} steps of the model, {seeds} seeds from {first}: no law was broken")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
