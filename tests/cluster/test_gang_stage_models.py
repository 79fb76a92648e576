"""Real models behind Ray Data: gangs of two ranks give the tokens of plain transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.data
from ray.train import ScalingConfig

from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig
from tests.clusters import assert_nothing_left, one_node
from tests.models import plain_greedy, prompts, write_tiny_model

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    with one_node(num_cpus=4, num_gpus=0):
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield


@pytest.fixture
def cluster(node: None) -> Iterator[None]:
    yield
    assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize(("kernel_inject", "num_gangs"), [(False, 2), (True, 1)])
def test_gangs_give_the_text_of_transformers(
    tmp_path: Path, cluster: None, kernel_inject: bool, num_gangs: int
) -> None:
    from transformers import AutoTokenizer

    directory = write_tiny_model("opt", tmp_path / "model", activation_function="gelu")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    texts = [tokenizer.decode(ids) for ids in prompts([3, 9, 5, 7, 4, 6, 8, 3, 5, 12])]
    token_ids = [tokenizer(text)["input_ids"] for text in texts]
    expected = [
        tokenizer.decode(ids, skip_special_tokens=True) for ids in plain_greedy(directory, token_ids, NEW_TOKENS)
    ]
    assert len(set(expected)) > 5, "the model answers all prompts alike: nothing would be shown"

    settings = {"dtype": "float32", "max_tokens": 64, "max_batch_size": 3, "verify": "off"}
    checkpoint = DeepSpeedCheckpoint.from_pretrained(directory, EngineConfig(kernel_inject=kernel_inject, **settings))
    predictor = BatchPredictor.from_checkpoint(
        checkpoint,
        DeepSpeedPredictor,
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
    )
    rows = [{"id": index, "prompt": text} for index, text in enumerate(texts)]
    out = predictor.predict(
        ray.data.from_items(rows, override_num_blocks=1),
        keep_columns=["id"],
        batch_size=4,
        min_scoring_workers=num_gangs,
        max_scoring_workers=num_gangs,
        max_new_tokens=NEW_TOKENS,
    ).take_all()
    assert [row["error"] for row in out] == [""] * len(texts)
    assert {row["id"]: row["output"] for row in out} == dict(enumerate(expected))
    assert all(row["num_prompt_tokens"] == len(token_ids[row["id"]]) for row in out)
