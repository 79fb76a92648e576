"""The scheduler, driven with a device that computes nothing but knows what each page holds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.engines.continuous.plan import Chunk, Limits, StepPlan
from raydsinfer.engines.continuous.scheduler import Scheduler
from raydsinfer.errors import RowError

VOCABULARY = 5


@dataclass(frozen=True)
class Request:
    """A prompt that generates up to `max_new_tokens`, but stops by itself after `stops_after`."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    stops_after: int = 10**9

    @property
    def num_new(self) -> int:
        return min(self.max_new_tokens, self.stops_after)


def digest(before: int, token: int) -> int:
    """Stands for keys and values of a position, which depend on all tokens up to it."""
    return (before * 1_000_003 + token + 1) % (2**61 - 1)


def digests(token_ids: Sequence[int]) -> list[int]:
    values, value = [], 0
    for token in token_ids:
        value = digest(value, token)
        values.append(value)
    return values


def expected(request: Request) -> list[int]:
    """What a model would generate alone."""
    value, new = digests(request.prompt)[-1], []
    for _ in range(request.num_new):
        new.append(value % VOCABULARY)
        value = digest(value, new[-1])
    return new


class Device:
    """Carries out plans in order and checks that each could be carried out.

    A cell of a page holds the digest of all tokens up to its position. A chunk reads the cells of all positions
    before its own: they must hold what this sequence would have computed itself, before the step began.
    """

    def __init__(self, limits: Limits, requests: Sequence[Request]) -> None:
        self.limits = limits
        self.cells: dict[tuple[int, int], int] = {}
        self.last: dict[int, int] = {}  # slot → token
        self.texts = [list(request.prompt) for request in requests]
        self.digests = [digests(request.prompt) for request in requests]
        self.num_computed: Counter[int] = Counter()

    def run(self, plan: StepPlan) -> dict[int, int]:
        """Tokens sampled, by sequence."""
        self._check_budgets(plan)
        slots = {chunk.sequence: chunk.slot for chunk in plan.chunks}
        for sequence in plan.admitted:
            self.last.pop(slots[sequence], None)
        for chunk in plan.chunks:
            self._check_reads(chunk)
        written: Counter[tuple[int, int]] = Counter()
        for chunk in plan.chunks:
            written.update(self._write(chunk))
        assert max(written.values()) == 1
        self._check_nobody_else_holds({page for page, _ in written}, plan)
        return {chunk.sequence: self._sample(chunk) for chunk in plan.chunks if chunk.samples}

    def _check_budgets(self, plan: StepPlan) -> None:
        limits = self.limits
        assert 1 <= plan.num_tokens <= limits.max_step_tokens
        kinds = [chunk.is_decode for chunk in plan.chunks]
        assert kinds == sorted(kinds, reverse=True)
        assert plan.is_decode_only == all(kinds)
        assert (
            len({chunk.slot for chunk in plan.chunks}) == len({chunk.sequence for chunk in plan.chunks}) == len(kinds)
        )
        for chunk in plan.chunks:
            assert 0 <= chunk.slot < limits.max_running
            assert len(set(chunk.pages)) == len(chunk.pages)
            assert all(0 <= page < limits.num_pages for page in chunk.pages)
            assert len(chunk.pages) * limits.page_size >= chunk.start + chunk.length
            assert chunk.length == (1 if chunk.is_decode else len(chunk.token_ids))

    def _check_reads(self, chunk: Chunk) -> None:
        size, own = self.limits.page_size, self.digests[chunk.sequence]
        for position in range(chunk.start):
            assert self.cells[chunk.pages[position // size], position % size] == own[position]

    def _write(self, chunk: Chunk) -> list[tuple[int, int]]:
        size, text = self.limits.page_size, self.texts[chunk.sequence]
        inputs = chunk.token_ids or (self.last[chunk.slot],)
        assert list(inputs) == text[chunk.start : chunk.start + chunk.length]
        cells = []
        for position in range(chunk.start, chunk.start + chunk.length):
            cells.append((chunk.pages[position // size], position % size))
            self.cells[cells[-1]] = self.digests[chunk.sequence][position]
        self.num_computed[chunk.sequence] += chunk.length
        return cells

    def _check_nobody_else_holds(self, pages: set[int], plan: StepPlan) -> None:
        holders = Counter(page for chunk in plan.chunks for page in chunk.pages)
        assert all(holders[page] == 1 for page in pages)

    def _sample(self, chunk: Chunk) -> int:
        text, end = self.texts[chunk.sequence], chunk.start + chunk.length
        # Computed again or not, the step before is the end of what is known of this text.
        assert end == len(text)
        value = self.digests[chunk.sequence][end - 1]
        token = value % VOCABULARY
        text.append(token)
        self.digests[chunk.sequence].append(digest(value, token))
        self.last[chunk.slot] = token
        return token


@dataclass
class Run:
    """What came of driving a scheduler to the end."""

    scheduler: Scheduler
    device: Device
    tokens: dict[int, list[int]] = field(default_factory=dict)
    plans: list[tuple[int, list[Chunk], tuple[int, ...]]] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)  # first admissions
    num_steps: int = 0


def drive(limits: Limits, requests: Sequence[Request], *, lookahead: bool = True, a_step: int = 10**9) -> Run:
    """Add `a_step` requests before each step, and go on until all have ended."""
    run = Run(Scheduler(limits), Device(limits, requests))
    scheduler, in_flight, num_added = run.scheduler, [], 0
    # The sequence admitted first is never preempted and gets on in each step, until it has ended.
    most_steps = sum(len(request.prompt) + 2 * request.max_new_tokens + 3 for request in requests)
    while len(run.tokens) < len(requests):
        for sequence in range(num_added, min(len(requests), num_added + a_step)):
            scheduler.add(sequence, requests[sequence].prompt, requests[sequence].max_new_tokens)
            num_added += 1
        plan = scheduler.plan()
        if plan is not None:
            assert scheduler.num_running <= limits.max_running
            assert scheduler.num_running + scheduler.num_waiting + len(run.tokens) == num_added
            run.plans.append(snapshot(plan))
            run.admitted += [sequence for sequence in plan.admitted if sequence not in run.device.num_computed]
            in_flight.append((plan, run.device.run(plan)))
            run.num_steps += 1
        assert in_flight, "nothing is planned and nothing is awaited, but not all have ended"
        assert run.num_steps <= most_steps
        if len(in_flight) > lookahead or plan is None:
            take_in(run, requests, *in_flight.pop(0))
    assert scheduler.num_running == scheduler.num_waiting == 0
    return run


def snapshot(plan: StepPlan) -> tuple[int, list[Chunk], tuple[int, ...]]:
    return plan.index, [chunk._replace(pages=list(chunk.pages)) for chunk in plan.chunks], plan.admitted


def take_in(run: Run, requests: Sequence[Request], plan: StepPlan, tokens: dict[int, int]) -> None:
    running = [sequence for sequence in tokens if sequence not in run.tokens]
    stopped = {
        sequence for sequence in running if len(run.scheduler.generated(sequence)) + 1 == requests[sequence].stops_after
    }
    for sequence in run.scheduler.commit(plan, tokens, stopped):
        assert sequence not in run.tokens
        run.tokens[sequence] = run.scheduler.take(sequence)


# Prompts of few tokens from a small alphabet, so that many begin alike.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14).map(tuple)
requests_lists = st.lists(
    st.builds(Request, prompts, st.integers(1, 12), st.sampled_from([1, 2, 4, 10**9])), min_size=1, max_size=14
)
# The longest request has 26 tokens: 7 pages of 4, or 13 of 2.
limits_of_all_kinds = st.builds(
    Limits,
    max_running=st.integers(1, 6),
    max_step_tokens=st.integers(1, 24),
    num_pages=st.integers(13, 30),
    page_size=st.sampled_from([2, 4]),
    min_admission=st.integers(1, 4),
    share_prefixes=st.booleans(),
)
TIGHT = Limits(max_running=6, max_step_tokens=16, num_pages=13, page_size=2)


@settings(max_examples=150, deadline=None)
@given(limits_of_all_kinds, requests_lists, st.booleans(), st.sampled_from([1, 3, 100]))
def test_every_request_ends_with_exactly_its_tokens(
    limits: Limits, requests: list[Request], lookahead: bool, a_step: int
) -> None:
    run = drive(limits, requests, lookahead=lookahead, a_step=a_step)
    assert [run.tokens[sequence] for sequence in range(len(requests))] == [expected(request) for request in requests]


@settings(max_examples=50, deadline=None)
@given(limits_of_all_kinds, requests_lists, st.sampled_from([1, 100]))
def test_equal_calls_give_equal_plans(limits: Limits, requests: list[Request], a_step: int) -> None:
    assert drive(limits, requests, a_step=a_step).plans == drive(limits, requests, a_step=a_step).plans


@settings(max_examples=50, deadline=None)
@given(limits_of_all_kinds, requests_lists)
def test_order_of_first_admission_is_order_of_arrival_but_for_shared_beginnings(
    limits: Limits, requests: list[Request]
) -> None:
    order = drive(limits, requests).admitted
    assert sorted(order) == list(range(len(requests)))
    for place, sequence in enumerate(order):
        # Whoever is overtaken begins like somebody who started before.
        for overtaken in [later for later in order[place:] if later < sequence]:
            head = requests[overtaken].prompt[: limits.page_size]
            assert limits.share_prefixes
            assert any(requests[other].prompt[: limits.page_size] == head for other in order[:place])


@settings(max_examples=50, deadline=None)
@given(requests_lists)
def test_preempted_sequences_end_with_the_same_tokens(requests: list[Request]) -> None:
    # Early stops teach the scheduler to expect little; then come some that go on.
    early = [Request((token % 2,), 12, 1) for token in range(60)]
    late = [Request(request.prompt, 12) for request in requests]
    run = drive(TIGHT, early + late)
    assert [run.tokens[sequence + 60] for sequence in range(len(late))] == [expected(request) for request in late]


@pytest.mark.parametrize("lookahead", [False, True])
def test_memory_that_runs_out_preempts_the_youngest_and_computes_it_again(lookahead: bool) -> None:
    early = [Request((1, 1), 12, 1)] * 100
    late = [Request((0, 1, 0, number), 12) for number in range(2, 6)]
    again = {}
    for share in (True, False):
        limits = Limits(max_running=4, max_step_tokens=64, num_pages=16, page_size=2, share_prefixes=share)
        run = drive(limits, early + late, lookahead=lookahead)
        assert run.scheduler.num_preempted > 0
        assert [run.tokens[number] for number in range(100, 104)] == [expected(request) for request in late]
        assert run.device.num_computed[100] == 4 + 11  # the oldest is never computed twice
        # A sequence that comes back takes over what it generated itself, if that is still there.
        chunks = [chunk for _, chunks, _ in run.plans for chunk in chunks if chunk.sequence >= 100]
        assert share == any(chunk.start > 4 and not chunk.is_decode for chunk in chunks)
        again[share] = sum(run.device.num_computed[number] for number in range(101, 104)) - 3 * (4 + 11)
    assert 0 < again[True] < again[False]  # what nobody needed room of is still known


def test_a_token_in_flight_that_ends_a_preempted_sequence_ends_it() -> None:
    scheduler = Scheduler(Limits(max_running=2, max_step_tokens=64, num_pages=4, page_size=2))
    scheduler._admission.share.value = 0.01  # believes that both fit
    scheduler.add(0, [1, 2], 5)
    scheduler.add(1, [3, 4], 5)
    plans = [scheduler.plan()]
    for step in range(3):
        plans.append(scheduler.plan())
        if scheduler.num_preempted:
            break
        assert scheduler.commit(plans[step], {0: 5, 1: 6}, []) == ()  # type: ignore[arg-type]
    assert [chunk.sequence for chunk in plans[-1].chunks] == [0]  # type: ignore[union-attr]
    assert scheduler.num_waiting == 1
    assert scheduler.commit(plans[-2], {0: 5, 1: 6}, [1]) == (1,)  # type: ignore[arg-type]
    assert scheduler.num_waiting == 0
    assert scheduler.take(1)[-1] == 6


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_with_and_without_lookahead_and_sharing_the_tokens_are_equal(lookahead: bool, share: bool) -> None:
    chance = random.Random(3)  # noqa: S311 - no secret
    requests = [random_request(chance) for _ in range(60)]
    limits = Limits(max_running=5, max_step_tokens=20, num_pages=24, page_size=2, share_prefixes=share)
    run = drive(limits, requests, lookahead=lookahead)
    assert [run.tokens[number] for number in range(60)] == [expected(request) for request in requests]


def test_ten_thousand_random_requests_are_each_answered_once() -> None:
    chance = random.Random(0)  # noqa: S311 - no secret
    requests = [random_request(chance) for _ in range(10_000)]
    limits = Limits(max_running=24, max_step_tokens=64, num_pages=60, page_size=4, min_admission=2)
    run = drive(limits, requests, a_step=40)
    assert len(run.tokens) == 10_000
    assert all(run.tokens[number] == expected(request) for number, request in enumerate(requests))
    assert run.scheduler.num_preempted > 0
    assert run.scheduler.num_shared_tokens > 0


def random_request(chance: random.Random) -> Request:
    prompt = tuple(chance.randrange(3) for _ in range(chance.randint(1, 20)))
    return Request(prompt, chance.randint(1, 12), chance.choice([1, 2, 5, 10**9]))


def test_decode_rows_come_first_and_a_long_prompt_goes_on_in_the_next_step() -> None:
    scheduler = Scheduler(Limits(max_running=4, max_step_tokens=8, num_pages=20, page_size=4))
    scheduler.add(7, [1, 2, 3], 4)
    scheduler.add(8, range(14), 4)
    first = scheduler.plan()
    assert first is not None
    assert [(chunk.sequence, chunk.start, chunk.length, chunk.samples) for chunk in first.chunks] == [
        (7, 0, 3, True),
        (8, 0, 5, False),
    ]
    assert first.admitted == (7, 8)
    second = scheduler.plan()  # before the first is committed
    assert second is not None
    assert [(chunk.sequence, chunk.start, chunk.token_ids, chunk.samples) for chunk in second.chunks] == [
        (7, 3, (), True),
        (8, 5, (5, 6, 7, 8, 9, 10, 11), False),
    ]
    assert second.admitted == ()
    third = scheduler.plan()
    assert third is not None
    assert third.chunks[1].token_ids == (12, 13)
    assert third.chunks[1].samples


def test_a_row_that_was_planned_once_too_often_is_ignored() -> None:
    scheduler = Scheduler(Limits(max_running=1, max_step_tokens=8, num_pages=2, page_size=4))
    scheduler.add(1, [5], 4)
    first, second = scheduler.plan(), scheduler.plan()
    assert first is not None
    assert second is not None
    assert scheduler.commit(first, {1: 9}, {1}) == (1,)
    assert scheduler.num_running == 0
    assert scheduler.take(1) == [9]
    scheduler.add(1, [6], 4)  # the same number and the same slot again
    assert scheduler.commit(second, {1: 8}, {1}) == ()
    assert scheduler.generated(1) == []


def test_nothing_is_planned_beyond_the_last_token() -> None:
    scheduler = Scheduler(Limits(max_running=1, max_step_tokens=8, num_pages=2, page_size=4))
    scheduler.add(1, [5], 2)
    first, second = scheduler.plan(), scheduler.plan()
    assert first is not None
    assert second is not None
    assert scheduler.plan() is None
    assert scheduler.commit(first, {1: 9}, ()) == ()
    assert scheduler.plan() is None
    assert scheduler.commit(second, {1: 8}, ()) == (1,)
    assert scheduler.take(1) == [9, 8]


def test_children_of_one_prompt_compute_it_once() -> None:
    requests = [Request(tuple(range(17)), 3)] * 4
    run = drive(Limits(max_running=8, max_step_tokens=64, num_pages=40, page_size=4), requests)
    assert run.scheduler.num_shared_tokens == 3 * 16
    assert sum(run.device.num_computed.values()) == 17 + 3 * 1 + 4 * 2


def test_one_that_waited_for_a_page_starts_in_the_next_step_though_another_was_refused() -> None:
    scheduler = Scheduler(Limits(max_running=8, max_step_tokens=64, num_pages=10, page_size=4))
    scheduler.add(0, range(10), 2)
    scheduler.add(1, range(10), 2)
    scheduler.add(2, range(100, 136), 2)
    plans = [scheduler.plan(), scheduler.plan()]
    assert [plan.admitted for plan in plans if plan is not None] == [(0,), (1,)]


def test_what_can_never_fit_is_refused_and_nothing_is_kept_of_it() -> None:
    scheduler = Scheduler(TIGHT)
    with pytest.raises(RowError, match="holds 26"):
        scheduler.add(1, [1] * 20, 7)
    assert scheduler.num_waiting == 0
    assert scheduler.plan() is None
    scheduler.add(1, [1] * 20, 6)


def test_misuse_is_named() -> None:
    scheduler = Scheduler(TIGHT)
    scheduler.add(1, [1], 3)
    with pytest.raises(ValueError, match="sequence 1 was added before"):
        scheduler.add(1, [1], 3)
    with pytest.raises(ValueError, match="sequence 1 has not ended"):
        scheduler.take(1)
    scheduler.plan()
    second = scheduler.plan()
    assert second is not None
    with pytest.raises(ValueError, match="step 1 is not the earliest"):
        scheduler.commit(second, {1: 0}, ())
