from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig as HuggingFaceConfig
from transformers import GenerationMixin, OPTConfig

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.sampling.candidates import weigh_candidates
from raydsinfer.engines.continuous.sampling.sampler import Sampler
from raydsinfer.engines.continuous.sampling.settings import (
    Fractions,
    Integers,
    fractions_of,
    integers_of,
    passes_of,
)
from raydsinfer.engines.generation import generate_arguments
from raydsinfer.errors import UnsupportedError

VOCAB, EOS = 60, [2, 7]
SUPPRESS, BEGIN_SUPPRESS = [5], [6, 9]


def make_sampler(num_slots: int = 4, vocab_size: int = VOCAB, **settings: Any) -> Sampler:
    settings = {"eos_ids": EOS, "max_tokens": 40, "device": "cpu"} | settings
    return Sampler(num_slots=num_slots, vocab_size=vocab_size, **settings)


def random_logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


class Transformers(GenerationMixin):
    """What transformers makes of generation settings, without a model."""

    def __init__(self) -> None:
        self.config = OPTConfig()

    def scores(self, generation: GenerationConfig, prompt: list[int], new: list[int], row: torch.Tensor) -> Any:
        """Processed scores of one row's next token: (1, vocabulary)."""
        arguments = generate_arguments(generation, pad_id=1, use_cache=True)
        config = HuggingFaceConfig(suppress_tokens=SUPPRESS, begin_suppress_tokens=BEGIN_SUPPRESS, **arguments)
        config._eos_token_tensor = torch.tensor(EOS)
        processors = self._get_logits_processor(config, input_ids_seq_length=len(prompt))
        return processors(torch.tensor([prompt + new]), row[None].clone())


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "fewest": {"min_new_tokens": 5},
    "penalty": {"repetition_penalty": 1.8},
    "ngrams": {"no_repeat_ngram_size": 2},
    "greedy all": {"min_new_tokens": 9, "repetition_penalty": 1.4, "no_repeat_ngram_size": 1},
    "plain": {"do_sample": True, "top_k": 0},
    "top_k": {"do_sample": True, "temperature": 2.0},
    "top_k beyond": {"do_sample": True, "top_k": 500},
    "top_p": {"do_sample": True, "top_p": 0.7, "temperature": 0.6},
    "min_p": {"do_sample": True, "min_p": 0.05, "top_k": 0},
    "typical": {"do_sample": True, "typical_p": 0.4, "top_k": 20},
    "cold": {"do_sample": True, "temperature": 0.001},
    "hot": {"do_sample": True, "temperature": 1000.0},
    "all": {
        "do_sample": True, "temperature": 1.7, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.8,
        "repetition_penalty": 0.7, "no_repeat_ngram_size": 2, "min_new_tokens": 6,
    },
}  # fmt: skip


def run(
    sampler: Sampler, rows: dict[int, dict[str, Any]], logits: torch.Tensor, *, padding: int = 0
) -> dict[int, list[int]]:
    """New tokens of each slot. Of `logits` (steps, slots, vocabulary) a row has its slot's, wherever it stands."""
    slots = list(rows)
    positions = {slot: len(row["prompt"]) for slot, row in rows.items()}
    for slot, row in rows.items():
        sampler.admit(slot, row["prompt"], len(row["prompt"]), GenerationConfig(**row["settings"]), row["seed"])
    spare = sampler.history.shape[0] - 1
    for step in logits:
        at = torch.tensor([positions[slot] for slot in slots] + [0] * padding)
        scores = torch.cat([torch.stack([step[row["logits"]] for row in rows.values()]), step[:padding]])
        sampler.sample(scores, torch.tensor(slots + [spare] * padding), at, slots)
        positions = {slot: position + 1 for slot, position in positions.items()}
    return {slot: sampler.history[slot, len(row["prompt"]) : positions[slot]].tolist() for slot, row in rows.items()}


def make_rows(names: list[str]) -> dict[int, dict[str, Any]]:
    """Each in a slot of its own, with its own prompt, seed and logits."""
    return {
        slot: {"prompt": [3, 4, 3, slot % 9][: 1 + slot % 4], "settings": SETTINGS[name], "seed": slot, "logits": slot}
        for slot, name in enumerate(names)
    }


def test_a_mixed_batch_follows_transformers() -> None:
    sampler = make_sampler(len(SETTINGS), suppress=SUPPRESS, begin_suppress=BEGIN_SUPPRESS)
    rows, logits = make_rows(list(SETTINGS)), random_logits(0, 12, len(SETTINGS), VOCAB)
    new = run(sampler, rows, logits)
    for slot, row in rows.items():
        generation = GenerationConfig(**row["settings"])
        for step, token in enumerate(new[slot]):
            scores = Transformers().scores(generation, row["prompt"], new[slot][:step], logits[step, slot])
            if generation.do_sample:
                assert scores[0, token] > -torch.inf
            else:
                assert token == scores.argmax()


@pytest.mark.parametrize("name", [name for name, settings in SETTINGS.items() if settings.get("do_sample")])
def test_candidates_and_their_probabilities_are_transformers(name: str) -> None:
    generation = GenerationConfig(**{key: value for key, value in SETTINGS[name].items() if "rep" not in key})
    whole = integers_of(generation, num_prompt=0, seed=0, vocab_size=VOCAB)
    other = fractions_of(generation)
    for row in random_logits(1, 5, VOCAB):
        row[EOS + SUPPRESS] = -torch.inf
        weights, ids = weigh_candidates(
            row[None],
            Integers(*(torch.tensor([getattr(whole, key)]) for key in Integers.__slots__)),
            Fractions(*(torch.tensor([getattr(other, key)], dtype=torch.float64) for key in Fractions.__slots__)),
            passes_of(generation, whole, other),
        )
        ours = torch.zeros(1, VOCAB, dtype=torch.float64).scatter_(1, ids, weights.double())
        theirs = Transformers().scores(generation, [3], [4], row).double().softmax(1)
        assert torch.equal(ours > 0, theirs > 1e-13)
        torch.testing.assert_close(ours / ours.sum(), theirs, rtol=1e-5, atol=1e-12)


def test_frequencies_are_the_probabilities() -> None:
    number, size = 8192, 12
    sampler = make_sampler(number, size, eos_ids=(), max_tokens=3)
    for slot in range(number):
        sampler.admit(slot, [1], 1, GenerationConfig(do_sample=True, temperature=1.5), seed=slot)
    logits = random_logits(2, 1, size)
    slots = torch.arange(number)
    tokens = sampler.sample(logits.repeat(number, 1), slots, torch.ones_like(slots), range(number)).tokens
    expected = (logits[0] / 1.5).softmax(0) * number
    counts = torch.bincount(tokens, minlength=size)
    assert expected.min() > 5
    assert ((counts - expected) ** 2 / expected).sum() < 31.3  # chi-square with 11 degrees: above it once in 1,000


def test_a_row_does_not_depend_on_its_neighbours_nor_on_its_slot() -> None:
    names = list(SETTINGS)
    sampler = make_sampler(len(names), vocab_size=1000)
    rows, logits = make_rows(names), random_logits(3, 10, len(names), 1000).half()
    together = run(sampler, rows, logits, padding=3)
    for slot, row in rows.items():
        other_slot = len(names) - 1 - slot
        assert run(sampler, {other_slot: row}, logits)[other_slot] == together[slot]


def test_a_row_that_comes_back_goes_on_as_if_nothing_had_been() -> None:
    row = {"prompt": [3, 4], "settings": SETTINGS["all"], "seed": 11, "logits": 0}
    logits = random_logits(4, 12, 2, VOCAB)
    whole = run(make_sampler(), {1: row}, logits)[1]
    sampler = make_sampler()
    run(sampler, {0: row | {"prompt": [8, 8, 8, 8, 8], "seed": 3}}, logits)  # somebody was there before
    sampler.admit(0, [3, 4, *whole[:5]], 2, GenerationConfig(**row["settings"]), seed=11)
    for step in range(5, 12):
        sampler.sample(logits[step, :1], torch.tensor([0]), torch.tensor([2 + step]), [0])
    assert sampler.history[0, 2:14].tolist() == whole


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_used_slot_is_as_good_as_a_new_one(name: str) -> None:
    logits = random_logits(5, 10, 1, VOCAB)
    row = {"prompt": [3, 4], "settings": SETTINGS[name], "seed": 1, "logits": 0}
    sampler = make_sampler()
    run(sampler, {0: {"prompt": [1, 2, 3, 4, 5], "settings": SETTINGS["all"], "seed": 2, "logits": 0}}, logits)
    assert run(sampler, {0: row}, logits) == run(make_sampler(), {0: row}, logits)


def test_the_same_seed_repeats_and_another_does_not() -> None:
    logits = random_logits(6, 20, 1, VOCAB).expand(20, 3, VOCAB)
    settings = {"do_sample": True, "top_k": 0}
    rows = {
        slot: {"prompt": [1], "settings": settings, "seed": seed, "logits": 0} for slot, seed in enumerate([4, 4, 5])
    }
    new = run(make_sampler(), rows, logits)
    assert new[0] == new[1] != new[2]


def test_the_pieces_for_a_graph_do_what_sampling_does() -> None:
    logits = random_logits(7, 4, VOCAB).half()
    logits[0, 7] = logits[1, 7] = 100
    slots, positions = torch.tensor([0, 1, 4, 4]), torch.tensor([1, 3, 0, 0])
    histories = []
    for in_pieces in (True, False):
        sampler = make_sampler()
        for slot in (0, 1):
            sampler.admit(slot, [3, 4, 5][: 1 + 2 * slot], 1, GenerationConfig(min_new_tokens=2), seed=0)
        if in_pieces:
            sampler.flush()
            sampler.record(slots, sampler.greedy(logits.clone(), slots, positions), positions)
        else:
            sampler.sample(logits.clone(), slots, positions, [0, 1])
        histories.append(sampler.history[:4])
    assert torch.equal(*histories)
    assert histories[0][0, 1] != 7
    assert histories[0][1, 3] == 7


def test_padding_writes_into_its_own_slot_only() -> None:
    sampler = make_sampler(2)
    sampler.admit(0, [3], 1, GenerationConfig(), seed=0)
    sampler.admit(1, [3], 1, GenerationConfig(do_sample=True, no_repeat_ngram_size=2), seed=0)
    slots, positions = torch.tensor([0, 1, 2, 2, 2]), torch.tensor([1, 1, 0, 40, 0])
    sampled = sampler.sample(random_logits(8, 5, VOCAB), slots, positions, [0, 1])
    assert sampled.tokens.shape == (5,)
    assert sampler.history[:2, 2:].sum() == 0
    assert sampler.history[:2, :2].tolist() == [[3, sampled.tokens[0]], [3, sampled.tokens[1]]]
    only_padding = sampler.sample(random_logits(8, 2, VOCAB), torch.tensor([2, 2]), torch.tensor([0, 0]), [])
    assert only_padding.tokens.shape == (2,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_log_probabilities_are_the_models_own(dtype: torch.dtype) -> None:
    logits = random_logits(9, 2, VOCAB).to(dtype)
    logits[:, 2] = 30
    sampler = make_sampler(max_tokens=9)
    wanted = {"return_logprobs": True, "min_new_tokens": 4}
    sampler.admit(0, [3], 1, GenerationConfig(**wanted), seed=0)
    sampler.admit(1, [3], 1, GenerationConfig(**wanted, do_sample=True, temperature=9.0), seed=0)
    before = logits.clone()
    sampled = sampler.sample(logits, torch.tensor([0, 1]), torch.tensor([1, 1]), [0, 1])
    assert torch.equal(logits, before)
    assert sampled.logprobs is not None
    expected = logits.float().log_softmax(1).gather(1, sampled.tokens[:, None])[:, 0]
    torch.testing.assert_close(sampled.logprobs, expected)
    assert (sampled.logprobs < -5).all()
    sampler.admit(0, [3], 1, GenerationConfig(), seed=0)
    assert sampler.sample(logits[:1], torch.tensor([0]), torch.tensor([1]), [0]).logprobs is None


@pytest.mark.parametrize("name", list(SETTINGS))
def test_one_token_that_is_not_forbidden_is_taken(name: str) -> None:
    sampler = make_sampler(suppress=set(range(VOCAB)) - {8})
    settings = {key: value for key, value in SETTINGS[name].items() if key != "no_repeat_ngram_size"}
    rows = {0: {"prompt": [8], "settings": settings, "seed": 3, "logits": 0}}
    assert run(sampler, rows, random_logits(10, 3, 1, VOCAB)) == {0: [8, 8, 8]}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_rows_without_any_token_get_a_token_all_the_same(name: str) -> None:
    sampler = make_sampler(suppress=range(VOCAB))
    rows = {0: {"prompt": [8], "settings": SETTINGS[name], "seed": 3, "logits": 0}}
    assert all(0 <= token < VOCAB for token in run(sampler, rows, random_logits(10, 3, 1, VOCAB))[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_temperatures_take_the_most_likely_token(dtype: torch.dtype) -> None:
    logits = (random_logits(11, 6, 1, VOCAB) * 30).to(dtype)
    rows = {0: {"prompt": [8], "settings": SETTINGS["cold"], "seed": 3, "logits": 0}}
    assert run(make_sampler(eos_ids=()), rows, logits)[0] == logits[:, 0].argmax(1).tolist()


def test_a_vocabulary_that_cannot_be_weighed_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="1048576 tokens"):
        make_sampler(vocab_size=2**20)
