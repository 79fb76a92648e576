"""Engine batches: every request once, equal settings together, seeds that depend on nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.rows.engine_batches import EngineBatch, batch_seed, plan_batches, row_request
from raydsinfer.rows.request import Request

SETTINGS = (
    GenerationConfig(max_new_tokens=5),
    GenerationConfig(max_new_tokens=6),
    GenerationConfig(max_new_tokens=5, num_beams=3),
    GenerationConfig(do_sample=True, num_return_sequences=2, seed=1, stop_strings=["a", "b"]),
)


def request(index: int, length: int = 3, generation: GenerationConfig = SETTINGS[0]) -> Request:
    return Request(index=index, token_ids=tuple(range(index, index + length)), prompt="", generation=generation)


def plan(
    requests: list[Request], max_batch_size: int = 4, fresh: int = 7, seed: int | None = None
) -> list[EngineBatch]:
    config = EngineConfig(max_batch_size=max_batch_size, seed=seed)
    return plan_batches(requests, config, fresh_seed=lambda: fresh)


requests = st.lists(st.tuples(st.integers(1, 20), st.sampled_from(SETTINGS)), max_size=30).map(
    lambda rows: [request(index, *row) for index, row in enumerate(rows)]
)


@given(requests=requests, max_batch_size=st.integers(3, 8))
def test_every_request_is_in_one_batch_of_its_settings(requests: list[Request], max_batch_size: int) -> None:
    batches = plan(requests, max_batch_size)
    assert sorted(r.index for batch in batches for r in batch.requests) == list(range(len(requests)))
    for batch in batches:
        generation = batch.call.generation
        assert all(r.generation == generation for r in batch.requests)
        assert [tuple(prompt) for prompt in batch.call.prompts] == [r.token_ids for r in batch.requests]
        sequences = max(generation.num_beams, generation.num_return_sequences)
        assert len(batch.requests) * sequences <= max_batch_size
        assert 0 <= batch.call.seed < 2**63


@given(requests=requests, rnd=st.randoms(use_true_random=False))
def test_the_order_of_requests_does_not_change_the_batches(requests: list[Request], rnd: object) -> None:
    shuffled = list(requests)
    rnd.shuffle(shuffled)  # type: ignore[attr-defined]
    key = str
    assert sorted(plan(requests), key=key) == sorted(plan(shuffled), key=key)


def test_long_prompts_come_first_and_neighbours_are_alike() -> None:
    lengths = [3, 9, 1, 9, 4]
    batches = plan([request(index, length) for index, length in enumerate(lengths)], max_batch_size=2)
    assert [[r.index for r in batch.requests] for batch in batches] == [[1, 3], [4, 0], [2]]


def test_a_limit_of_sequences_makes_smaller_batches() -> None:
    rows = [request(index) for index in range(5)] + [request(9, generation=SETTINGS[2])]
    batches = plan_batches(rows, EngineConfig(max_batch_size=4), fresh_seed=lambda: 7, most_sequences=2)
    assert [len(batch.requests) for batch in batches] == [2, 2, 1, 1]


def test_beams_count_against_the_limit_of_sequences() -> None:
    beams = GenerationConfig(num_beams=4)
    rows = [request(index, generation=beams) for index in range(4)]

    def sizes(most_sequences: int) -> list[int]:
        config = EngineConfig(max_batch_size=32)
        batches = plan_batches(rows, config, fresh_seed=lambda: 7, most_sequences=most_sequences)
        return [len(batch.requests) for batch in batches]

    assert sizes(8) == [2, 2]
    assert sizes(2) == [1, 1, 1, 1]  # one row at least


def test_the_row_seeds_before_the_engine_before_chance() -> None:
    def seed_of(generation: GenerationConfig, **settings: int | None) -> int:
        return plan([request(0, generation=generation)], **settings)[0].call.seed  # type: ignore[arg-type]

    prompts = [request(0).token_ids]
    assert seed_of(GenerationConfig(seed=1), seed=2, fresh=3) == batch_seed(1, prompts)
    assert seed_of(GenerationConfig(), seed=2, fresh=3) == batch_seed(2, prompts)
    assert seed_of(GenerationConfig(), seed=None, fresh=3) == batch_seed(3, prompts)


def test_a_seed_is_the_same_on_every_machine_and_depends_on_every_token() -> None:
    assert batch_seed(7, [[1, 2], [3]]) == 8633120048386050988
    different = {batch_seed(7, p) for p in ([[1, 2], [3]], [[1], [2, 3]], [[1, 2, 3]], [[3], [1, 2]], [])}
    assert len(different) == 5
    assert batch_seed(8, [[1, 2], [3]]) != batch_seed(7, [[1, 2], [3]])


def test_a_row_alone_has_the_seed_of_its_own_prompt() -> None:
    row, other = request(3, generation=GenerationConfig(seed=1)), request(4)
    sent = row_request(row, EngineConfig(seed=2), fresh_seed=lambda: 7)
    assert (sent.key, sent.token_ids, sent.generation) == (3, row.token_ids, row.generation)
    assert sent.seed == batch_seed(1, [row.token_ids])
    assert row_request(other, EngineConfig(seed=2), fresh_seed=lambda: 7).seed == batch_seed(2, [other.token_ids])
    fresh = iter([7, 8])
    seeds = [row_request(other, EngineConfig(), fresh_seed=lambda: next(fresh)).seed for _ in range(2)]
    assert seeds == [batch_seed(7, [other.token_ids]), batch_seed(8, [other.token_ids])]
