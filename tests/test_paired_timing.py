"""Timing in turns, by a clock that moves only when an arm works."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from autoprog.paired_timing import (
    InterleavedTimes,
    TimeIsUpError,
    TimingLimits,
    seconds_with_warmup,
    time_interleaved,
)
from autoprog.search.measured_costs import result_of


@dataclass
class Machine:
    """A clock, and arms that move it: what a step takes, times how slow the machine is just then."""

    seconds: dict[str, float]
    slowness: Callable[[float], float] = lambda now: 1.0
    now: float = 0.0
    taken: list[tuple[str, int]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def arm(self, name: str) -> Callable[[int], float]:
        def work(times: int) -> float:
            self.taken.append((name, times))
            spent = 0.0
            for number in range(1 + times):
                step = self.seconds[name] * self.slowness(self.now)
                self.now += step
                spent += step if number else 0.0
            return spent / times

        return work

    def turns(self, limits: TimingLimits, **known: Any) -> InterleavedTimes:
        arms = {name: self.arm(name) for name in self.seconds}
        return result_of(time_interleaved(arms, "full", limits, self.clock, **known))


def test_on_a_quiet_machine_six_rounds_are_enough() -> None:
    machine = Machine({"full": 1.0, "half": 0.5})
    turns = machine.turns(TimingLimits(1000.0))
    assert len(turns.rounds) == 6
    assert turns.estimate("half").median == 0.5
    assert turns.estimate("half").confidence >= 0.95


def test_a_slow_spell_slows_all_alike() -> None:
    """The machine is four times slower for most of the time: the ratio does not know."""
    machine = Machine(
        {"full": 1.0, "half": 0.5, "tenth": 0.1}, lambda now: 4.0 if now > 10 else 1.0
    )
    turns = machine.turns(TimingLimits(1000.0))
    assert turns.estimate("full").median == pytest.approx(4.0)
    assert turns.estimate("half").median == pytest.approx(2.0, rel=0.01)
    assert turns.estimate("tenth").median == pytest.approx(0.4, rel=0.01)


def test_each_round_starts_with_another_arm() -> None:
    machine = Machine({"full": 1.0, "half": 0.5, "third": 0.3})
    machine.turns(TimingLimits(1000.0))
    names = [name for name, _ in machine.taken]
    assert names[:3] == ["full", "half", "third"], "the first turn, in which caches fill"
    assert [names[k] for k in (3, 6, 9, 12)] == ["full", "half", "third", "full"]


def test_short_steps_are_taken_in_blocks() -> None:
    machine = Machine({"full": 0.04, "small": 0.001})
    machine.turns(TimingLimits(1000.0))
    assert ("full", 3) in machine.taken
    assert ("small", 20) in machine.taken
    assert seconds_with_warmup(0.04) == pytest.approx(4 * 0.04)


def test_noisy_arms_go_on_while_settled_ones_sit_out() -> None:
    machine = Machine({"full": 1.0, "noisy": 0.5, "quiet": 0.25})
    noise = iter([0.5, 0.7, 0.3, 0.6, 0.4, 0.55, 0.45, *[0.5] * 40])
    work = machine.arm("noisy")

    def noisy(times: int) -> float:
        work(times)
        return next(noise)

    arms = {"full": machine.arm("full"), "noisy": noisy, "quiet": machine.arm("quiet")}
    turns = result_of(time_interleaved(arms, "full", TimingLimits(1000.0), machine.clock))
    assert len(turns.ratios("quiet")) == 6
    assert 6 < len(turns.ratios("noisy")) == len(turns.ratios("full")) < 60
    found = turns.estimate("noisy")
    assert found.high - found.low <= 2 * 0.02 * found.median


def test_whatever_never_settles_ends_by_the_number_of_rounds() -> None:
    machine = Machine({"full": 1.0, "wild": 0.5})
    states = iter(range(1000))

    def wild(times: int) -> float:
        return 0.1 + (next(states) % 7)

    arms = {"full": machine.arm("full"), "wild": wild}
    turns = result_of(
        time_interleaved(arms, "full", TimingLimits(1e9, max_rounds=25), machine.clock)
    )
    assert len(turns.rounds) == 25


def test_the_time_is_kept() -> None:
    """A turn of both takes 3 s: after the first one, three rounds fit into 14 s."""
    machine = Machine({"full": 1.0, "half": 0.5})
    turns = machine.turns(TimingLimits(14.0))
    assert len(turns.rounds) == 3
    assert machine.now == 12.0
    assert turns.estimate("half").confidence < 0.95


def test_without_time_for_a_round_the_first_turn_counts() -> None:
    machine = Machine({"full": 1.0, "half": 0.5})
    turns = machine.turns(TimingLimits(3.0))
    assert machine.taken == [("full", 1), ("half", 1)]
    assert turns.estimate("half").median == 0.5
    assert turns.estimate("full").median == 1.0


@pytest.mark.parametrize(("slow_from", "limit"), [(1.0, 12.0), (2.5, 9.5), (4.0, 6.5), (5.5, 6.5)])
def test_one_disturbance_counts_for_nothing_where_there_are_few_rounds(
    slow_from: float, limit: float
) -> None:
    """Quiet, the timed steps are at 1, 2.5, 4 and 5.5 s: each arm has one in its first turn and one later."""
    machine = Machine(
        {"full": 1.0, "half": 0.5}, lambda now: 3.0 if slow_from <= now < slow_from + 0.4 else 1.0
    )
    turns = machine.turns(TimingLimits(limit))
    assert 1 <= len(turns.rounds) < 3
    full, half = turns.estimate("full"), turns.estimate("half")
    assert (full.median, half.median) == (pytest.approx(1.0), pytest.approx(0.5))
    assert max(full.high, 2 * half.high) == pytest.approx(3.0)


def test_the_first_round_takes_what_there_is_time_for() -> None:
    """A turn of all takes 23 s: what is slow has its first turn and no other."""
    machine = Machine({"full": 1.0, "half": 0.5, "shuffled stream": 10.0})
    turns = machine.turns(TimingLimits(26.0))
    assert turns.rounds == [{"full": 1.0, "half": 0.5}]
    assert turns.estimate("shuffled stream").median == 10.0


def test_an_arm_whose_first_turn_does_not_fit_is_left_out() -> None:
    machine = Machine({"full": 1.0, "slow": 4.0, "half": 0.5})
    turns = machine.turns(TimingLimits(5.0), expected_seconds=machine.seconds.__getitem__)
    assert machine.now <= 5.0
    assert set(turns.first) == {"full", "half"}


def test_of_what_has_had_its_first_turn_nothing_is_taken_beyond_the_time() -> None:
    machine = Machine({"full": 1.0, "half": 0.5})
    turns = machine.turns(
        TimingLimits(0.0), first={"full": 1.5}, expected_seconds=machine.seconds.__getitem__
    )
    assert machine.taken == []
    assert (turns.first, turns.rounds) == ({"full": 1.5}, [])
    assert turns.estimate("full").median == 1.5


def test_a_block_that_the_time_ends_in_does_not_count() -> None:
    machine = Machine({"full": 1.0, "half": 0.5})
    work, arms = machine.arm("half"), {"full": machine.arm("full")}

    def ended(times: int) -> float:
        if machine.now >= 5:
            raise TimeIsUpError
        return work(times)

    arms["half"] = ended
    turns = result_of(time_interleaved(arms, "full", TimingLimits(1000.0), machine.clock))
    assert turns.rounds == [{"full": 1.0}]
    assert (turns.estimate("full").median, turns.estimate("half").median) == (1.0, 0.5)


def test_what_is_known_is_told_after_each_block() -> None:
    machine = Machine({"full": 1.0, "half": 0.5})
    arms = {name: machine.arm(name) for name in machine.seconds}
    told = [
        len(turns.first)
        for turns in time_interleaved(arms, "full", TimingLimits(6.0), machine.clock)
    ]
    assert told == [1, 2, 2, 2]


def test_an_arm_that_takes_a_fifth_of_the_time_is_taken_once() -> None:
    machine = Machine({"full": 0.2, "half": 0.1, "shuffled stream": 10.0})
    turns = machine.turns(TimingLimits(60.0))
    assert len(turns.ratios("shuffled stream")) == 1
    assert len(turns.ratios("half")) == 6


def test_the_reference_alone_is_taken_six_times() -> None:
    assert len(Machine({"full": 1.0}).turns(TimingLimits(1000.0)).rounds) == 6


def test_ranks_take_the_turns_that_rank_0_says() -> None:
    """This rank sees other times, and yet it takes part in each block that rank 0 takes part in."""
    told: list[str] = []
    main = Machine({"full": 1.0, "half": 0.5})
    arms = {name: main.arm(name) for name in main.seconds}

    def tell(text: str) -> str:
        told.append(text)
        return text

    result_of(time_interleaved(arms, "full", TimingLimits(14.0), main.clock, tell))
    heard = iter(told)
    other = Machine({"full": 0.3, "half": 30.0})
    arms = {name: other.arm(name) for name in other.seconds}
    result_of(time_interleaved(arms, "full", TimingLimits(1.0), other.clock, lambda _: next(heard)))
    assert other.taken == main.taken
    assert json.loads(told[-1]) == []
