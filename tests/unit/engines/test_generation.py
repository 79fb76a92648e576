from __future__ import annotations

import pytest

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.generation import generate_arguments, pad_left, read_completion


def test_padding_goes_to_the_left() -> None:
    ids, mask = pad_left([[5, 6, 7], [8]], pad_id=1)
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("row", "pad", "by_text", "tokens", "reason"),
    [
        ([4, 5, 6], 0, False, (4, 5, 6), "length"),
        ([4, 2, 0], 0, False, (4, 2), "stop"),
        ([4, 5, 2], 0, False, (4, 5, 2), "stop"),
        ([2, 2, 2], 2, False, (2,), "stop"),
        ([4, 5, 0], 0, True, (4, 5), "stop"),
        ([4, 2, 2], 2, True, (4,), "stop"),
        ([4, 5, 6], 0, True, (4, 5, 6), "stop"),
    ],
)
def test_reading_a_row(row: list[int], pad: int, by_text: bool, tokens: tuple[int, ...], reason: str) -> None:
    completion = read_completion(row, {2}, pad, 3, by_text)
    assert (completion.token_ids, completion.finish_reason) == (tokens, reason)


def test_sampling_settings_go_along_only_when_sampling() -> None:
    assert "temperature" not in generate_arguments(GenerationConfig(temperature=0.5), 0, True)
    sampled = generate_arguments(GenerationConfig(do_sample=True, temperature=0.5), 0, True)
    assert sampled["temperature"] == 0.5
    assert sampled["top_k"] == 50


def test_beam_settings_go_along_only_with_beams() -> None:
    assert "length_penalty" not in generate_arguments(GenerationConfig(), 0, True)
    assert generate_arguments(GenerationConfig(num_beams=2, length_penalty=0.5), 0, True)["length_penalty"] == 0.5
