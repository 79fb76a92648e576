"""Real models behind Ray Data: gangs of two ranks give the tokens of plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import ray.data
from ray.train import ScalingConfig

from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig
from tests.models import plain_greedy, prompts, write_tiny_model

NEW_TOKENS = 12


@pytest.mark.slow
def test_gangs_give_the_text_of_transformers(tmp_path: Path, nothing_left: None) -> None:
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
    checkpoint = DeepSpeedCheckpoint.from_pretrained(directory, EngineConfig(**settings))
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
        min_scoring_workers=2,
        max_scoring_workers=2,
        max_new_tokens=NEW_TOKENS,
    ).take_all()
    assert [row["error"] for row in out] == [""] * len(texts)
    assert {row["id"]: row["output"] for row in out} == dict(enumerate(expected))
    assert all(row["num_prompt_tokens"] == len(token_ids[row["id"]]) for row in out)
