"""Continuous batching on real process groups: each row's tokens are those of plain transformers, whoever is beside."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import (
    Completion,
    EngineSpec,
    GenerateAnswer,
    GenerateBatch,
    GenerateRequest,
    LoadReport,
    RankContext,
)
from tests.models import plain_greedy, prompts, write_tiny_model
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

FAMILIES = {
    "opt": {},
    "gptj": {},
    "gpt_neox": {},
    "gpt_neo": {},  # its local layer sees 16 tokens
    "llama": {},
    "qwen2": {},
    "mistral": {"sliding_window": 12},
    "bloom": {},
}
UNEVEN = {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 8}
NEW_TOKENS = 16
LENGTHS = [12, 30, 5, 9, 1, 17, 40]
# The cache holds 64 tokens and a step 16, so that rows wait, lose their pages, and prompts come in chunks.
NARROW = {"max_tokens": 64, "max_batch_size": 1, "max_running": 4, "max_step_tokens": 16, "kv_page_size": 4}
ANYTHING = ["\ufffd", *map(chr, range(128))]
SAMPLING = {"do_sample": True, "temperature": 1.5, "top_k": 0}


@dataclass
class Case:
    """One engine to load, and what it is asked.

    `a_call` requests come with each call of `advance`. `static` are prompts of a static batch afterwards.
    """

    model: str
    requests: list[GenerateRequest] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    a_call: int = 10**9
    num_steps: int = 3
    static: list[list[int]] = field(default_factory=list)
    num_beams: int = 1


@dataclass
class Outcome:
    """What came of a case; `error` if its engine could not be loaded."""

    report: LoadReport = field(default_factory=lambda: LoadReport(mode=""))
    answers: list[GenerateAnswer] = field(default_factory=list)
    statistics: dict[str, float] = field(default_factory=dict)
    most_waiting: int = 0
    most_steps: int = 0
    static: list[list[Completion]] = field(default_factory=list)
    error: str = ""

    def completions(self) -> dict[int, tuple[Completion, ...]]:
        return {answer.key: answer.completions for answer in self.answers}

    def tokens(self) -> dict[int, list[int]]:
        return {key: list(completions[0].token_ids) for key, completions in self.completions().items()}


def run(context: RankContext, cases: dict[str, Case]) -> dict[str, Outcome]:
    """On each rank: all cases, one after the other."""
    import torch

    outcomes = {name: run_case(context, case) for name, case in cases.items()}
    answers = {name: [(answer.key, answer.completions) for answer in done.answers] for name, done in outcomes.items()}
    of_all: list[Any] = [None] * context.world_size
    torch.distributed.all_gather_object(of_all, answers)
    assert all(of_one == answers for of_one in of_all), "ranks disagree"
    return outcomes


def run_case(context: RankContext, case: Case) -> Outcome:
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    # The gate would look at each engine, too, or remember in the home directory that it has.
    defaults = {"max_tokens": 128, "max_batch_size": 8, "dtype": "float32", "verify": "off"}
    config = EngineConfig(**{**defaults, **case.config})
    engine = DeepSpeedEngine(EngineSpec(model=case.model, config=config), context)
    try:
        outcome = Outcome(engine.load())
    except Exception as error:
        return Outcome(error=f"{type(error).__name__}: {error}")
    waiting, busy = list(case.requests), 0
    while waiting or busy:
        done = engine.advance(waiting[: case.a_call], num_steps=case.num_steps)
        del waiting[: case.a_call]
        busy = done.num_running + done.num_waiting
        outcome.answers += done.answers
        outcome.most_waiting = max(outcome.most_waiting, done.num_waiting)
        outcome.most_steps = max(outcome.most_steps, done.num_steps)
    outcome.statistics = engine.statistics()
    if case.static:
        generation = GenerationConfig(max_new_tokens=NEW_TOKENS, num_beams=case.num_beams)
        outcome.static = engine.generate(GenerateBatch(prompts=case.static, generation=generation))
    engine.close()
    return outcome


def ask(key: int, token_ids: list[int], *, seed: int = 0, **settings: Any) -> GenerateRequest:
    generation = GenerationConfig(**{"max_new_tokens": NEW_TOKENS, **settings})
    return GenerateRequest(key=key, token_ids=token_ids, generation=generation, seed=seed)


def brief(num: int) -> list[GenerateRequest]:
    """Requests that end with their first token: they teach the scheduler to expect little, so that memory runs out."""
    return [ask(1000 + index, [3 + index], stop_strings=ANYTHING) for index in range(num)]


def greedy_case(directory: Path, **config: Any) -> Case:
    late = [ask(key, token_ids) for key, token_ids in enumerate(prompts(LENGTHS))]
    return Case(str(directory), brief(20) + late, NARROW | config)


def assert_greedy(directory: Path, outcome: Outcome) -> None:
    assert outcome.report.batching == "continuous", outcome.report.note or outcome.error
    assert not outcome.report.note
    tokens = outcome.tokens()
    assert len(outcome.answers) == len(tokens) == 20 + len(LENGTHS)
    assert [tokens[key] for key in range(len(LENGTHS))] == plain_greedy(directory, prompts(LENGTHS), NEW_TOKENS)
    # What the sizes are for did happen.
    counts = outcome.statistics
    assert outcome.most_waiting > 0
    assert counts["preemptions"] > 0
    assert counts["prefill_tokens"] + counts["decode_tokens"] <= 16 * counts["steps"]
    assert counts["running_sum"] <= 4 * counts["steps"]
    assert counts["eager_steps"] == counts["steps"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    written = {family: write_tiny_model(family, root / family, **changes) for family, changes in FAMILIES.items()}
    written |= {family: write_tiny_model(family, root / family) for family in ("gpt2", "xglm")}
    written["uneven"] = write_tiny_model("llama", root / "uneven", **UNEVEN)
    written["uneven biases"] = write_tiny_model("bloom", root / "biases", hidden_size=80, n_head=5)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    written["small"] = write_tiny_model("llama", root / "small", **small)
    return written


def sharing_requests() -> list[GenerateRequest]:
    """Greedy and sampled ones, some with the same beginning."""
    beginning, *others = prompts([20, 3, 8, 15, 6, 11, 4, 9, 2, 7])
    requests = []
    for key, ending in enumerate(others):
        settings = {"return_logprobs": key == 4, **(SAMPLING if key % 2 else {})}
        token_ids = beginning + ending if key % 3 else ending
        requests.append(ask(key, token_ids, seed=key // 4, max_new_tokens=8 + key, **settings))
    return requests


def company_cases(directory: Path) -> dict[str, Case]:
    """The same requests in different company."""
    requests, model = sharing_requests(), str(directory)
    return {
        "alone": Case(model, requests, {"max_running": 1, "share_prefixes": False}),
        "together": Case(model, requests, {"share_prefixes": False}),
        "backwards": Case(model, requests[::-1], {"max_running": 3}, a_call=1, num_steps=1),
        "sharing": Case(model, requests, {"max_running": 3}),
        "preempted": Case(model, brief(40) + requests, NARROW),
        "preempted, not sharing": Case(model, brief(40) + requests, {**NARROW, "share_prefixes": False}),
    }


def random_requests(num: int) -> list[GenerateRequest]:
    chance = random.Random(0)  # noqa: S311 - no secret
    requests = []
    for key in range(num):
        token_ids = [chance.randrange(3, 259) for _ in range(chance.randint(1, 6))]
        settings = SAMPLING if key % 4 == 3 else {}
        requests.append(ask(key, token_ids, seed=key, max_new_tokens=chance.randint(1, 6), **settings))
    return requests


@pytest.fixture(scope="module")
def stop_string(directories: dict[str, Path]) -> tuple[list[int], str, list[int]]:
    """A prompt, a stop string of two tokens, and the tokens up to its end."""
    requests = prompts(LENGTHS)
    for token_ids, answer in zip(requests, plain_greedy(directories["llama"], requests, NEW_TOKENS), strict=True):
        for end in range(2, len(answer) + 1):
            first, second = answer[end - 2 : end]
            if 3 <= first < 97 and 3 <= second < 97:  # printable characters, from "!" on
                return token_ids, chr(first + 30) + chr(second + 30), answer[:end]
    raise AssertionError("no two printable characters in a row")


@pytest.fixture(scope="module")
def one_rank(directories: dict[str, Path], stop_string: tuple[list[int], str, list[int]]) -> dict[str, Outcome]:
    """Outcomes of all cases on one rank."""
    llama, xglm, prompt = str(directories["llama"]), str(directories["xglm"]), prompts([10])[0]
    cases = {family: greedy_case(directories[family]) for family in FAMILIES}
    cases["gpt2"] = greedy_case(directories["gpt2"], ds_inference=False)
    cases |= company_cases(directories["llama"])
    cases["xglm"] = Case(xglm, config={"ds_inference": False})
    cases["xglm, continuous"] = Case(xglm, config={"ds_inference": False, "batching": "continuous"})
    cases["small cache"] = Case(llama, config={"kv_cache_bytes": 10_000})
    cases["short sequences"] = Case(llama, [ask(0, prompt[:2], max_new_tokens=2)], {"max_tokens": 4})
    impossible = [ask(0, prompt, max_new_tokens=100), ask(1, prompt), ask(2, [])]
    cases["impossible"] = Case(llama, impossible, NARROW)
    cases["too long"] = Case(llama, impossible, {"max_tokens": 64})
    cases["stop string"] = Case(llama, [ask(0, stop_string[0], stop_strings=[stop_string[1]])])
    several = {**SAMPLING, "num_return_sequences": 3}
    cases["several"] = Case(
        llama,
        [
            ask(0, prompt, seed=5, **several),
            ask(1, prompt, seed=5, **several),
            ask(2, prompt, seed=6, **several),
            ask(3, prompt, seed=5, **SAMPLING),
            ask(4, prompt, return_logprobs=True),
        ],
    )
    cases["many"] = Case(
        str(directories["small"]),
        random_requests(10_000),
        {"max_tokens": 16, "kv_page_size": 4, "max_batch_size": 160},
        a_call=1000,
        num_steps=8,
    )
    return dict(run_ranks(1, run, cases))


@pytest.fixture(scope="module")
def two_ranks(directories: dict[str, Path]) -> dict[str, Outcome]:
    """Outcomes of all cases on two ranks."""
    cases = {family: greedy_case(directories[family]) for family in FAMILIES}
    cases["llama"].static, cases["llama"].num_beams = prompts(LENGTHS), 2
    cases["preempted"] = company_cases(directories["llama"])["preempted"]
    cases |= {name: greedy_case(directories[name]) for name in ("uneven", "uneven biases")}
    # One rank has two key-value heads of the three and the other one: there is room on the other only.
    uneven_bytes = 2 * 2 * 8 * 4 * 3 * (128 + 16) - 1
    cases["small cache"] = Case(str(directories["uneven"]), config={"kv_cache_bytes": uneven_bytes})
    return dict(run_ranks(2, run, cases))


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_greedy_tokens_on_one_rank_equal_transformers(
    directories: dict[str, Path], one_rank: dict[str, Outcome], family: str
) -> None:
    assert_greedy(directories[family], one_rank[family])
    assert one_rank[family].report.mode == ("plain" if family == "gpt2" else "autotp")


@pytest.mark.parametrize("family", [*FAMILIES, "uneven", "uneven biases"])
def test_greedy_tokens_on_two_ranks_equal_transformers(
    directories: dict[str, Path], two_ranks: dict[str, Outcome], family: str
) -> None:
    assert_greedy(directories[family], two_ranks[family])


def test_uneven_heads_on_three_ranks_equal_transformers(directories: dict[str, Path]) -> None:
    """Also in static batches: starting three ranks is dear."""
    directory = directories["uneven"]
    static = Case(str(directory), config={"batching": "static"}, static=prompts(LENGTHS))
    done = run_ranks(3, run, {"continuous": greedy_case(directory), "static": static})
    assert_greedy(directory, done["continuous"])
    assert done["static"].report.batching == "static"
    answers = [list(row[0].token_ids) for row in done["static"].static]
    assert answers == plain_greedy(directory, prompts(LENGTHS), NEW_TOKENS)


def test_tokens_do_not_depend_on_company(one_rank: dict[str, Outcome], two_ranks: dict[str, Outcome]) -> None:
    alone = one_rank["alone"].completions()
    assert len(alone) == len(sharing_requests())
    assert one_rank["alone"].statistics["running_sum"] == one_rank["alone"].statistics["steps"]
    for outcome in in_company(one_rank, two_ranks):
        completions = outcome.completions()
        for key, [expected] in alone.items():
            [found] = completions[key]
            assert (found.token_ids, found.finish_reason) == (expected.token_ids, expected.finish_reason)
            assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
            assert len(found.logprobs) == (len(found.token_ids) if key == 4 else 0)
    assert one_rank["sharing"].statistics["shared_tokens"] > 0
    assert one_rank["preempted, not sharing"].statistics["shared_tokens"] == 0
    for preempted in (one_rank["preempted"], one_rank["preempted, not sharing"], two_ranks["preempted"]):
        assert preempted.statistics["preemptions"] > 0


def in_company(one_rank: Mapping[str, Outcome], two_ranks: Mapping[str, Outcome]) -> Iterator[Outcome]:
    for name in ("together", "backwards", "sharing", "preempted", "preempted, not sharing"):
        yield one_rank[name]
    yield two_ranks["preempted"]


def test_ten_thousand_requests_are_each_answered_once(
    directories: dict[str, Path], one_rank: dict[str, Outcome]
) -> None:
    outcome, requests = one_rank["many"], random_requests(10_000)
    assert Counter(answer.key for answer in outcome.answers) == dict.fromkeys(range(10000), 1)
    assert not any(answer.error for answer in outcome.answers)
    tokens = outcome.tokens()
    assert all(0 < len(tokens[request.key]) <= request.generation.max_new_tokens for request in requests)
    some = [request for request in requests[::400] if not request.generation.do_sample]
    expected = plain_greedy(directories["small"], [list(request.token_ids) for request in some], 6)
    for request, whole in zip(some, expected, strict=True):
        assert tokens[request.key] == whole[: request.generation.max_new_tokens]
    assert outcome.most_steps == 8


def test_static_beams_still_work_after_continuous_batching(
    directories: dict[str, Path], two_ranks: dict[str, Outcome]
) -> None:
    expected = plain_greedy(directories["llama"], prompts(LENGTHS), NEW_TOKENS, num_beams=2)
    assert [list(row[0].token_ids) for row in two_ranks["llama"].static] == expected


def test_unknown_attention_batches_statically_and_says_so(one_rank: dict[str, Outcome]) -> None:
    report = one_rank["xglm"].report
    assert report.batching == "static"
    assert report.note.startswith("static batching: 0 of its 2 layers attend in a way")
    assert one_rank["xglm, continuous"].error.startswith("UnsupportedError: continuous batching of this model")


def test_too_little_memory_for_one_sequence_is_said_at_the_start(
    one_rank: dict[str, Outcome], two_ranks: dict[str, Outcome]
) -> None:
    # 3 layers, keys and values, 2 heads of 32 numbers of 4 bytes: 1,536 bytes a token, for 128 tokens and a page more.
    error = one_rank["small cache"].error
    assert error.startswith("EngineError")
    assert "one sequence of max_tokens=128 needs 221.2 kB" in error
    assert "raise kv_cache_bytes" in error
    assert two_ranks["small cache"].error.startswith("EngineError")


def test_sequences_shorter_than_the_trial(directories: dict[str, Path], one_rank: dict[str, Outcome]) -> None:
    outcome = one_rank["short sequences"]
    assert outcome.tokens() == {0: plain_greedy(directories["llama"], [prompts([10])[0][:2]], 2)[0]}, outcome.error


@pytest.mark.parametrize(
    ("case", "limit"), [("impossible", "the KV cache of the gang holds 64"), ("too long", "max_tokens is 64")]
)
def test_a_request_that_never_fits_is_answered_with_an_error(
    one_rank: dict[str, Outcome], case: str, limit: str
) -> None:
    answers = {answer.key: answer for answer in one_rank[case].answers}
    assert len(one_rank[case].answers) == 3
    assert f"together 110, but {limit}" in answers[0].error
    assert answers[0].completions == ()
    assert "the prompt has no tokens" in answers[2].error
    assert len(answers[1].completions[0].token_ids) == NEW_TOKENS


def test_a_stop_string_that_spans_tokens(
    one_rank: dict[str, Outcome], stop_string: tuple[list[int], str, list[int]]
) -> None:
    assert one_rank["stop string"].completions() == {0: (Completion(tuple(stop_string[2]), "stop"),)}


def test_several_sequences_of_a_request(one_rank: dict[str, Outcome]) -> None:
    completions = one_rank["several"].completions()
    assert len(set(completions[0])) == 3
    assert completions[1] == completions[0], "the same seed gives the same text"
    assert not set(completions[2]) & set(completions[0]), "another seed gives another"
    assert completions[3] == completions[0][:1]
    [greedy] = completions[4]
    assert len(greedy.logprobs) == len(greedy.token_ids)
    assert max(greedy.logprobs) <= 0
