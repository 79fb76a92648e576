"""What is expected of a sequence, and the order in which sequences wait."""

from __future__ import annotations

import pytest

from raydsinfer.engines.continuous.sequences import SequenceState, WaitingQueue


def state_of(number: int = 0, *, num_prompt: int = 10, max_new_tokens: int = 20) -> SequenceState:
    return SequenceState(number, number, tuple(range(num_prompt)), max_new_tokens)


@pytest.mark.parametrize(
    ("share", "num_sampled", "left"),
    [
        (1.0, 0, 19),  # the last token is sampled but not stored
        (1.0, 1, 19),
        (1.0, 5, 15),
        (1.0, 20, 0),
        (0.5, 1, 9),
        (0.5, 9, 1),
        (0.5, 10, 1),  # outlived the share: one more
        (0.5, 19, 1),
        (0.5, 20, 0),
        (0.0, 0, 0),
    ],
)
def test_what_it_will_still_store(share: float, num_sampled: int, left: int) -> None:
    state = state_of()
    state.num_sampled = num_sampled
    state.num_computed = 10 + max(0, num_sampled - 1)
    assert state.num_expected(share) == left


def test_what_is_computed_again_counts_as_stored() -> None:
    state = state_of()
    state.generated, state.num_sampled = [1, 2, 3], 3
    state.prepare()
    assert state.inputs == (*range(10), 1, 2, 3)
    assert state.num_expected(1.0) == 10 + 20 - 1 - 13


def test_a_sequence_is_settled_when_all_sampled_tokens_are_committed() -> None:
    state = state_of()
    assert state.is_settled
    state.num_sampled = 1
    assert not state.is_settled
    state.generated.append(5)
    assert state.is_settled


def test_pages_are_named_as_far_as_the_inputs_go() -> None:
    state = state_of()
    state.name_pages(4)
    first = list(state.names)
    assert len(first) == 2
    state.generated, state.num_sampled = [1, 2], 2
    state.prepare()
    state.name_pages(4)
    assert state.names[:2] == first
    assert len(state.names) == 3


def test_preempted_ones_wait_in_front_in_order_of_arrival() -> None:
    queue, states = WaitingQueue(), [state_of(number) for number in range(5)]
    for state in states:
        queue.append(state)
    taken = [queue.pop() for _ in range(4)]
    for state in (taken[3], taken[1]):
        state.was_preempted = True
    queue.put_back([taken[3]])
    queue.put_back([taken[1]])
    queue.put_back([taken[0], taken[2]])  # never ran
    assert [state.number for state in queue] == [1, 3, 0, 2, 4]
    assert [state.number for state in queue.first(2)] == [1, 3]
    queue.remove(states[3])
    assert len(queue) == 4
    assert [queue.pop().number for _ in range(4)] == [1, 0, 2, 4]
