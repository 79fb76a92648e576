from __future__ import annotations

from collections.abc import Sequence

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.sampling.stops import StopRule

PIECES = ["the ", "e", "nd", "END", "\n", "</s>"]


def decode(token_ids: Sequence[int]) -> str:
    return "".join(PIECES[token] for token in token_ids)


def rule(stops: list[str] | None = None, *, most: int = 10, least: int = 0) -> StopRule:
    return StopRule(
        GenerationConfig(max_new_tokens=most, min_new_tokens=least, stop_strings=stops), frozenset({5}), decode
    )


def test_an_end_of_sequence_stops() -> None:
    assert rule().finish_reason([0], 5) == "stop"
    assert rule().finish_reason([0], 1) is None
    assert rule(most=2).finish_reason([0], 5) == "stop"


def test_the_most_new_tokens() -> None:
    assert rule(most=2).finish_reason([], 0) is None
    assert rule(most=2).finish_reason([0], 0) == "length"
    assert rule(most=2).finish_reason([0, 0], 0) == "length"


def test_a_stop_string_may_span_tokens_or_end_inside_one() -> None:
    assert rule(["end"]).finish_reason([0], 1) is None
    assert rule(["end"]).finish_reason([0, 1], 2) == "stop"
    assert rule(["e  end"]).finish_reason([0, 1], 2) is None
    assert rule(["he e"]).finish_reason([0], 1) == "stop"
    assert rule(["x", "EN"]).finish_reason([4], 3) == "stop"
    assert rule(["end"], most=2).finish_reason([1], 2) == "stop"


def test_a_stop_string_does_not_wait_for_the_fewest_new_tokens() -> None:
    assert rule(["end"], least=8).finish_reason([1], 2) == "stop"


def test_rows_without_stop_strings_are_not_decoded() -> None:
    def refuse(token_ids: Sequence[int]) -> str:
        raise AssertionError

    assert StopRule(GenerationConfig(), {5}, refuse).finish_reason([], 0) is None
