"""What is certainly past: clocks that jump make nothing old, and what is old is found out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtp_sts.store.past import DAY, GAP_SECONDS, LOOK_SECONDS, Watch, past, seen

NOW = 1_700_000_000.0
HOUR = 3600.0


class Machine:
    """A machine whose clock is looked at."""

    def __init__(self) -> None:
        self.true = NOW
        self.wrong = 0.0  # what its clock is ahead
        self.boot, self.booted = 1, NOW - 100.0
        self.watch: Watch | None = None

    @property
    def wall(self) -> float:
        return self.true + self.wrong

    def look(self) -> None:
        uptime = self.true - self.booted
        self.watch = seen(self.watch, str(self.boot), uptime, self.wall)

    def run(self, seconds: float) -> None:
        """Looked at all the while."""
        until = self.true + seconds
        while self.true < until:
            self.look()
            self.true += min(LOOK_SECONDS, until - self.true)
        self.look()

    def off(self, seconds: float) -> None:
        """Nobody looks: the daemon is down, or the machine suspended."""
        self.true += seconds

    def reboot(self, seconds: float = 60.0) -> None:
        self.true += seconds
        self.boot, self.booted = self.boot + 1, self.true

    @property
    def late(self) -> float:
        """How far what is certainly past is behind the right time."""
        return self.true - (past(self.watch) or float("-inf"))


def test_after_a_day_what_was_then_is_past() -> None:
    machine = Machine()
    machine.run(DAY - 1)
    assert machine.late == float("inf")
    machine.run(LOOK_SECONDS)
    assert past(machine.watch) == NOW
    machine.run(3 * DAY)
    assert DAY <= machine.late < DAY * 1.1
    assert machine.watch is not None
    assert len(machine.watch.marks) < 100


@pytest.mark.parametrize("ahead", [10.0, HOUR, 30 * DAY, 400 * DAY])
@pytest.mark.parametrize("for_long", [0.0, 60.0, HOUR, 23 * HOUR])
@pytest.mark.parametrize("at", [0.0, HOUR, 2 * DAY])
def test_a_clock_that_was_ahead_for_less_than_a_day_makes_nothing_old(
    ahead: float, for_long: float, at: float
) -> None:
    machine = Machine()
    machine.run(at)
    machine.wrong = ahead
    machine.run(for_long)
    assert machine.late >= DAY
    machine.wrong = 0.0
    # What came true meanwhile stays a mark: it is past by the right time, too.
    least = DAY - ahead if ahead <= for_long else DAY
    for _ in range(40):
        machine.run(HOUR)
        assert machine.late >= least
    assert machine.late < DAY * 1.1


def test_a_clock_that_is_ahead_at_every_start_makes_nothing_old() -> None:
    """A machine that boots with a wrong clock, which is set right a minute later."""
    machine = Machine()
    for _ in range(60):
        machine.wrong = 30 * DAY
        machine.look()
        machine.off(60.0)
        machine.wrong = 0.0
        machine.run(HOUR)
        machine.reboot()
        assert machine.late >= DAY
    assert machine.late < 2 * DAY


@pytest.mark.parametrize("boots", [False, True])
def test_a_daemon_that_is_restarted_every_hour_prunes_some_day(boots: bool) -> None:
    machine = Machine()
    for _ in range(26):
        machine.run(HOUR)
        if boots:
            machine.reboot()
        else:
            machine.off(30.0)
    assert DAY <= machine.late < 1.2 * DAY


def test_time_that_nobody_watched_does_not_count() -> None:
    machine = Machine()
    machine.wrong = 30 * DAY
    machine.look()
    machine.off(2 * DAY)  # suspended, with a clock that goes on wrong
    machine.look()
    assert machine.late == float("inf")
    machine.wrong = 0.0
    machine.look()
    for _ in range(10):  # a laptop, asleep at night
        machine.run(10 * HOUR)
        machine.off(14 * HOUR)
    assert DAY <= machine.late < 4 * DAY


def test_a_machine_that_begins_in_1970_counts_from_when_it_knows_better() -> None:
    machine = Machine()
    machine.wrong = -NOW
    machine.run(2 * DAY)
    assert past(machine.watch) < 3 * DAY
    machine.wrong = 0.0
    machine.run(HOUR)
    assert past(machine.watch) < 3 * DAY
    machine.run(DAY)
    assert DAY <= machine.late < 1.1 * DAY


def test_less_than_a_day_may_be_asked_for() -> None:
    machine = Machine()
    machine.run(3 * HOUR)
    assert HOUR <= machine.true - past(machine.watch, HOUR) <= 1.2 * HOUR


def test_a_snapshot_that_was_taken_back_does_not_count_twice() -> None:
    machine = Machine()
    machine.run(20 * HOUR)
    machine.booted += 10 * HOUR  # the machine is what it was ten hours ago, the store is not
    machine.run(3 * HOUR)
    assert machine.late == float("inf")


step = st.one_of(
    st.tuples(st.just("run"), st.floats(0, 40 * HOUR)),
    st.tuples(st.just("off"), st.floats(0, 40 * HOUR)),
    st.tuples(st.just("reboot"), st.floats(1, HOUR)),
    st.tuples(st.just("set"), st.floats(-50 * DAY, 50 * DAY)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(step, max_size=25))
def test_what_is_past_was_so_at_every_look_of_a_day(steps: list[tuple[str, float]]) -> None:
    """By an oracle that keeps every look."""
    machine = Machine()
    looks: list[tuple[int, float, float]] = []  # boot, true, wall
    real = machine.look

    def look() -> None:
        looks.append((machine.boot, machine.true, machine.wall))
        real()

    machine.look = look  # type: ignore[method-assign]
    for what, amount in steps:
        if what == "set":
            machine.wrong = amount
        else:
            getattr(machine, what)(amount)
    when = past(machine.watch)
    if not when:
        return
    at = max(i for i, (_, _, wall) in enumerate(looks) if wall == when)
    assert all(wall >= when for _, _, wall in looks[at:])
    watched = sum(
        after[1] - before[1]
        for before, after in zip(looks[at:], looks[at + 1 :], strict=False)
        if before[0] == after[0] and after[1] - before[1] <= GAP_SECONDS
    )
    assert watched >= DAY - 1.0
