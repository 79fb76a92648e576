"""Who may start, and when."""

from __future__ import annotations

from dataclasses import replace

from raydsinfer.engines.continuous.admission import Admission
from raydsinfer.engines.continuous.plan import Limits
from raydsinfer.engines.continuous.running import RunningSet
from raydsinfer.engines.continuous.sequences import SequenceState, WaitingQueue

LIMITS = Limits(max_running=8, max_step_tokens=1000, num_pages=100, page_size=4)


class House:
    """A queue, a running set and the admission between them; prompts differ unless they are given."""

    def __init__(self, **limits: object) -> None:
        self.limits = replace(LIMITS, **limits)  # type: ignore[arg-type]
        self.running, self.waiting = RunningSet(self.limits), WaitingQueue()
        self.admission = Admission(self.limits, self.running, self.waiting)
        self.states: list[SequenceState] = []

    def wait(self, num_prompt: int, max_new_tokens: int, first_token: int | None = None) -> SequenceState:
        number = len(self.states)
        first = 1000 * number if first_token is None else first_token
        state = SequenceState(number, number, tuple(range(first, first + num_prompt)), max_new_tokens)
        self.states.append(state)
        self.waiting.append(state)
        return state

    def admit(self, budget: int = 1000) -> list[int]:
        return [state.number for state in self.admission.admit(budget)]

    def compute(self, *states: SequenceState) -> None:
        for state in states:
            state.num_computed = len(state.inputs)
            if self.running.publish(state):
                self.admission.reconsider()

    def end(self, *states: SequenceState) -> None:
        for state in states:
            self.running.stop(state)
        self.admission.reconsider()


def test_slots_are_filled_in_order_of_arrival() -> None:
    house = House(max_running=2)
    first, *_ = [house.wait(4, 4) for _ in range(4)]
    assert house.admit() == [0, 1]
    assert house.admit() == []
    house.end(first)
    assert house.admit() == [2]
    assert house.states[2].slot == 0


def test_the_budget_of_the_step_ends_with_a_prompt_in_part() -> None:
    house = House()
    for _ in range(4):
        house.wait(10, 4)
    assert house.admit(budget=15) == [0, 1]
    assert house.admit(budget=0) == []
    assert house.admit(budget=1) == [2]


def test_one_that_ended_reserves_nothing() -> None:
    house = House(num_pages=20)
    first = house.wait(20, 20)
    house.admit()
    assert house.running.num_reserved == 10
    house.end(first)
    assert house.running.num_reserved == 0


def test_nobody_overtakes_the_one_that_does_not_fit() -> None:
    house = House(num_pages=10)
    first = house.wait(16, 8)
    house.admit()
    house.wait(28, 4)
    house.wait(4, 1)
    assert house.admit() == []
    house.end(first)
    assert house.admit() == [1, 2]


def test_the_future_peak_counts_not_only_the_present() -> None:
    house = House(num_pages=20)
    house.wait(4, 37)  # grows from 1 page to 10
    house.wait(4, 37)
    house.wait(4, 37)
    assert house.admit() == [0, 1]


def test_one_that_ends_before_the_peak_may_join() -> None:
    house = House(num_pages=20)
    house.wait(4, 37)
    house.wait(4, 37)
    house.wait(4, 4)  # gone long before the others have grown
    assert house.admit() == [0, 1, 2]


def test_where_rows_stop_early_more_may_join() -> None:
    house = House(num_pages=20)
    for _ in range(200):
        house.admission.share.learn(1, 10)
    for _ in range(4):
        house.wait(4, 37)
    assert house.admit() == [0, 1, 2, 3]


def test_alone_it_starts_whatever_is_expected() -> None:
    house = House(num_pages=10)
    house.wait(10, 30)
    assert house.admit() == [0]


def test_a_refusal_is_kept_until_something_changes() -> None:
    house = House(num_pages=10)
    first, _ = house.wait(16, 20), house.wait(16, 20)
    assert house.admit() == [0]
    house.admission.share.value = 0.01  # would let it in, but nothing ended: no second look
    assert house.admit() == []
    house.admission.reconsider()
    assert house.admit() == [1]
    assert first.slot == 0


def test_equal_prompts_wait_for_the_first_and_share_its_pages() -> None:
    house = House()
    first = house.wait(10, 4, first_token=0)
    house.wait(10, 4, first_token=0)
    house.wait(10, 4, first_token=500)
    assert house.admit() == [0, 2]  # passed over, not refused
    house.compute(first)
    assert house.admit() == [1]
    assert house.states[1].table.pages[:2] == first.table.pages[:2]
    assert house.states[1].table.pages[2] != first.table.pages[2]
    assert house.running.num_shared_tokens == house.states[1].num_computed == 8


def test_the_last_token_is_computed_even_if_its_page_is_known() -> None:
    house = House()
    first = house.wait(8, 4, first_token=0)
    house.admit()
    house.compute(first)
    house.wait(8, 4, first_token=0)
    assert house.admit() == [1]
    assert house.states[1].num_computed == 4


def test_one_that_was_passed_over_keeps_its_place() -> None:
    house = House(max_running=2)
    first = house.wait(10, 4, first_token=0)
    house.wait(10, 4, first_token=0)
    house.wait(10, 4)
    house.wait(10, 4)
    assert house.admit(budget=10) == [0]
    assert house.admit(budget=0) == []
    house.compute(first)
    assert house.admit() == [1]


def test_all_that_were_passed_over_keep_their_order() -> None:
    house = House()
    first, *_ = [house.wait(10, 4, first_token=0) for _ in range(4)]
    assert house.admit() == [0]
    house.compute(first)
    assert house.admit() == [1, 2, 3]


def test_one_that_waited_for_a_page_starts_though_another_was_refused() -> None:
    house = House(num_pages=10)
    first = house.wait(10, 1, first_token=0)
    house.wait(10, 1, first_token=0)
    house.wait(36, 1)
    assert house.admit() == [0]
    assert house.admit() == []
    house.compute(first)
    assert house.admit() == [1]


def test_shared_pages_are_counted_once() -> None:
    for num_pages, third_starts in ((9, False), (10, True)):
        house = House(num_pages=num_pages)
        first = house.wait(17, 4, first_token=0)  # four full pages and one of its own
        second = house.wait(17, 4, first_token=0)  # the same four and one of its own
        house.admit()
        house.compute(first)
        house.admit()
        house.compute(second)
        house.wait(4, 13)  # one page, later four
        assert house.admit() == ([2] if third_starts else [])


def test_pages_of_ended_sequences_are_shared_while_they_are_kept() -> None:
    house = House()
    first = house.wait(10, 4, first_token=0)
    house.admit()
    house.compute(first)
    house.end(first)
    house.wait(10, 4, first_token=0)
    house.admit()
    assert house.states[1].num_computed == 8


def test_nothing_is_shared_if_it_should_not_be() -> None:
    house = House(share_prefixes=False)
    first = house.wait(10, 4, first_token=0)
    house.wait(10, 4, first_token=0)
    assert house.admit() == [0, 1]
    house.compute(first)
    house.wait(10, 4, first_token=0)
    assert house.admit() == [2]
    assert house.running.num_shared_tokens == 0


def test_kept_pages_that_are_shared_are_not_given_out_as_free_ones() -> None:
    house = House(num_pages=4, max_running=2)
    first = house.wait(8, 1, first_token=0)
    house.admit()
    house.compute(first)
    house.end(first)
    house.wait(16, 1, first_token=0)  # two pages known, two to write: all four
    house.wait(4, 1)
    assert house.admit() == [1]
    assert sorted(house.states[1].table.pages) == [0, 1, 2, 3]


def test_one_whose_last_token_is_not_committed_holds_the_queue() -> None:
    house = House()
    first = house.wait(4, 4)
    house.admit()
    house.compute(first)
    first.num_sampled = 1
    house.waiting.put_back([house.running.preempt_youngest()])
    house.wait(4, 4)
    assert house.admit() == []
    first.generated.append(9)
    assert house.admit() == [0, 1]
    assert first.inputs == (0, 1, 2, 3, 9)


def test_new_ones_start_together() -> None:
    house = House(min_admission=3)
    running = [house.wait(4, 4) for _ in range(20)][:8]
    assert house.admit() == list(range(8))
    house.end(running[0])
    assert house.admit() == []
    house.end(running[1])
    assert house.admit() == []
    house.end(running[2])
    assert house.admit() == [8, 9, 10]


def test_new_ones_are_held_back_until_there_is_memory_for_an_eighth_of_those_that_run() -> None:
    house = House(min_admission=4, max_running=64, num_pages=18, max_step_tokens=1000)
    running = [house.wait(4, 0) for _ in range(18)]
    for _ in range(9):
        house.wait(4, 0)
    assert house.admit() == list(range(18)), "no memory for more"
    house.end(running[0])
    assert house.admit() == []
    house.end(running[1])
    assert house.admit() == [18, 19]


def test_few_that_run_wait_for_nothing_but_memory() -> None:
    house = House(min_admission=4, num_pages=20)
    running = [house.wait(20, 1) for _ in range(4)]
    for _ in range(4):
        house.wait(20, 1)
    assert house.admit() == [0, 1, 2, 3]
    house.end(running[0])
    assert house.admit() == [4]


def test_no_more_are_held_back_than_run() -> None:
    house = House(max_running=4, min_admission=4)
    running = [house.wait(4, 4) for _ in range(20)][:4]
    house.admit()
    house.end(running[0])
    assert house.admit() == []
    house.end(running[1])
    assert house.admit() == [4, 5]


def test_fewer_start_if_fewer_wait() -> None:
    house = House(max_running=4, min_admission=3)
    first, *_ = [house.wait(4, 4) for _ in range(5)]
    house.admit()
    house.end(first)
    assert house.admit() == [4]


def test_once_begun_they_go_on_over_several_steps() -> None:
    house = House(max_running=4, min_admission=4)
    for _ in range(4):
        house.wait(10, 4)
    assert house.admit(budget=10) == [0]
    assert house.admit(budget=10) == [1]
