from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig as HuggingFaceConfig

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import Completion
from raydsinfer.engines.generation import (
    CountSteps,
    StopStrings,
    chosen_logprobs,
    generate_arguments,
    pad_left,
    read_completion,
    special_tokens,
    stop_length,
)


def test_padding_goes_to_the_left() -> None:
    ids, mask = pad_left([[5, 6, 7], [8]], pad_id=1)
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("row", "stopped_at", "tokens", "reason"),
    [
        ([4, 5, 6], None, (4, 5, 6), "length"),
        ([4, 2, 0], None, (4, 2), "stop"),
        ([4, 5, 2], None, (4, 5, 2), "stop"),
        ([2, 2, 2], None, (2,), "stop"),
        ([4, 5, 0], 2, (4, 5), "stop"),
        ([4, 2, 2], 1, (4,), "stop"),
        ([4, 2, 5], 3, (4, 2), "stop"),
        ([4, 5, 6], 3, (4, 5, 6), "stop"),
    ],
)
def test_reading_a_row(row: list[int], stopped_at: int | None, tokens: tuple[int, ...], reason: str) -> None:
    completion = read_completion(row, {2}, stopped_at)
    assert (completion.token_ids, completion.finish_reason) == (tokens, reason)


def letters(token_ids: Sequence[int]) -> str:
    return "".join(map(chr, token_ids))


def test_a_stop_string_ends_at_the_token_that_completes_it() -> None:
    row = [ord(c) for c in "one\n\ntwo\n\n"]
    assert stop_length(row, letters, ["\n\n", "wo"]) == 5
    assert stop_length(row, letters, ["three"]) is None
    assert stop_length([ord(c) for c in "x" * 500 + "END..."], letters, ["END"]) == 503


def test_the_prompt_plays_no_part_in_stopping() -> None:
    prompt, new = [ord(c) for c in "Q:\n"], [ord(c) for c in "\nA"]
    criterion = StopStrings(["\n\n"], letters, prompt_length=len(prompt))
    assert criterion(torch.tensor([prompt + new]), None).tolist() == [False]
    assert criterion(torch.tensor([[*prompt, 10, 10], [*prompt, 10, 65]]), None).tolist() == [True, False]


def test_only_special_tokens_of_a_saved_generation_config_count(tmp_path: Path) -> None:
    saved = {"eos_token_id": [2, 40, 41], "pad_token_id": 7, "min_length": 30, "do_sample": True, "temperature": 0.1}
    (tmp_path / "generation_config.json").write_text(json.dumps(saved))
    kept = special_tokens(HuggingFaceConfig(eos_token_id=2, bos_token_id=1), tmp_path)
    assert (kept.eos_token_id, kept.pad_token_id, kept.bos_token_id) == ([2, 40, 41], 7, 1)
    assert not kept.min_length
    assert not kept.do_sample


def test_sampling_settings_go_along_only_when_sampling() -> None:
    assert "temperature" not in generate_arguments(GenerationConfig(temperature=0.5), 0, True)
    sampled = generate_arguments(GenerationConfig(do_sample=True, temperature=0.5), 0, True)
    assert sampled["temperature"] == 0.5
    assert sampled["top_k"] == 50


def test_beam_settings_go_along_only_with_beams() -> None:
    assert "length_penalty" not in generate_arguments(GenerationConfig(), 0, True)
    assert generate_arguments(GenerationConfig(num_beams=2, length_penalty=0.5), 0, True)["length_penalty"] == 0.5


def test_counting_steps_changes_no_logits() -> None:
    steps: list[int] = []
    scores = torch.randn(2, 5)
    assert CountSteps(lambda: steps.append(1))(torch.zeros(2, 3, dtype=torch.long), scores) is scores
    assert steps == [1]


def test_logprobs_of_chosen_tokens_go_with_the_answer_and_end_with_it():
    logits = [torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 0.0]])]
    found = chosen_logprobs(logits, torch.tensor([[1, 0], [0, 1]]))
    expected = [[logits[0][0].log_softmax(0)[1], logits[1][0].log_softmax(0)[0]],
                [logits[0][1].log_softmax(0)[0], logits[1][1].log_softmax(0)[1]]]  # fmt: skip
    assert torch.allclose(torch.tensor(found), torch.tensor(expected))
    completion = read_completion([5, 2, 0], {2}, None, [-0.5, -1.5, -9.0])
    assert completion == Completion((5, 2), "stop", (-0.5, -1.5))
