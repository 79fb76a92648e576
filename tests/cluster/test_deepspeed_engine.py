"""The DeepSpeed engine with static batches on real process groups: its tokens are those of plain transformers.

tests/cluster/test_continuous_engine.py is about continuous batching, and has the case of three ranks;
tests/cluster/test_kernel_families.py is about kernel injection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydsinfer.engines.base import Completion
from tests.engine_cases import NEW_TOKENS, Case, answer, fail_to_load, tokens
from tests.models import plain_greedy, prompts, write_tiny_model
from tests.ranks import run_ranks

LENGTHS = [12, 5, 9]
AUTOTP_FAMILIES = ["opt", "gptj", "gpt_neox", "gpt_neo", "llama", "qwen2", "mistral", "bloom"]


def greedy_case(directory: Path, **config: Any) -> Case:
    requests = prompts(LENGTHS)
    return Case(str(directory), config, [(requests, {}), (requests[1:2], {})])


def assert_greedy(case: Case) -> None:
    expected = plain_greedy(Path(case.model), prompts(LENGTHS), NEW_TOKENS)
    assert tokens(case.answers[0]) == expected, "a padded batch"
    assert tokens(case.answers[1]) == expected[1:2], "a batch of one"


@pytest.mark.slow
def test_autotp_on_two_ranks_equals_transformers_for_every_family(tmp_path: Path) -> None:
    cases = []
    for family in AUTOTP_FAMILIES:
        directory = write_tiny_model(family, tmp_path / family)
        cases += [greedy_case(directory), greedy_case(directory, use_meta_tensor=False)]
    pickled = write_tiny_model("llama", tmp_path / "pickled", safe=False)
    tied = write_tiny_model("llama", tmp_path / "tied", tie_word_embeddings=True)
    cases += [greedy_case(pickled), greedy_case(tied)]
    done = run_ranks(2, answer, cases)
    assert len(done) == len(cases)
    for case in done:
        assert_greedy(case)


@pytest.mark.slow
def test_generation_settings_on_two_ranks(tmp_path: Path) -> None:
    directory = write_tiny_model("llama", tmp_path / "llama")
    requests = prompts(LENGTHS)
    expected = plain_greedy(directory, requests, NEW_TOKENS)
    # Ids 3 to 96 are the printable ASCII characters: a text of its own, which can be a stop string.
    stop_after = next(i for i, token in enumerate(expected[1]) if 3 <= token < 97)
    from raydsinfer.engines.tokenizer import HuggingFaceTokenizer

    stop = HuggingFaceTokenizer(str(directory)).decode([expected[1][stop_after]])
    sampling = {"do_sample": True, "temperature": 1.5, "top_k": 0}
    case = Case(
        str(directory),
        {},
        [
            (requests, {**sampling, "seed": 7}),
            (requests, {**sampling, "seed": 7}),
            (requests, {**sampling, "seed": 8}),
            (requests, {**sampling, "num_return_sequences": 3}),
            (requests, {"num_beams": 2}),
            (requests[:2], {"stop_strings": [stop]}),
        ],
    )
    [done] = run_ranks(2, answer, [case])
    first, again, other, several, beams, stopped = done.answers
    assert first == again, "the same seed gives the same text"
    assert first != other, "another seed gives another"
    assert [len(row) for row in several] == [3, 3, 3]
    assert len({sequence.token_ids for sequence in several[0]}) == 3
    assert tokens(beams)[0] == plain_greedy(directory, requests[:1], NEW_TOKENS, num_beams=2)[0]
    assert stopped[1] == [Completion(tuple(expected[1][: stop_after + 1]), "stop")]
    assert stopped[0] == [Completion(tuple(expected[0]), "length")]


@pytest.mark.slow
def test_saved_end_tokens_and_frequencies_of_older_checkpoints(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    directory = write_tiny_model("llama", tmp_path / "llama")
    requests = prompts(LENGTHS)
    expected = plain_greedy(directory, requests, NEW_TOKENS)
    # A token that the model writes becomes an end of sequence, said in this file only, as chat models do.
    end = expected[0][2]
    (directory / "generation_config.json").write_text(f'{{"eos_token_id": [2, {end}], "min_length": 99}}')
    state = load_file(directory / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    cases = [Case(str(directory), {"use_meta_tensor": meta}, [(requests, {})]) for meta in (True, False)]
    for case in run_ranks(1, answer, cases):
        first = case.answers[0][0][0]
        assert first == Completion(tuple(expected[0][: expected[0].index(end) + 1]), "stop")


@pytest.mark.slow
def test_plain_mode(tmp_path: Path) -> None:
    cases = [greedy_case(write_tiny_model(f, tmp_path / f), ds_inference=False) for f in ("gpt2", "bloom")]
    for case in run_ranks(1, answer, cases):
        assert_greedy(case)


@pytest.mark.slow
def test_each_tensor_is_accounted_for(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    forgotten, odd = "model.norm.weight", "model.layers.9.odd.weight"
    directories = [write_tiny_model("llama", tmp_path / name) / "model.safetensors" for name in ("less", "more")]
    less, more = (load_file(path) for path in directories)
    del less[forgotten]
    more[odd] = torch.zeros(2)
    for path, state in zip(directories, (less, more), strict=True):
        save_file(state, path, metadata={"format": "pt"})
    loads = [(str(path.parent), {"use_meta_tensor": meta}) for path in directories for meta in (True, False)]
    texts = run_ranks(1, fail_to_load, loads)
    for text, expected in zip(
        texts, [f"parameters never filled: {forgotten}"] * 2 + [f"tensors that nothing took: {odd}"] * 2, strict=True
    ):
        assert text.startswith("WeightsMismatchError"), text
        assert expected in text
