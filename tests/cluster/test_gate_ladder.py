"""Gangs whose first way to run a model is not right: real Ray, real DeepSpeed, wrong engines on purpose."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import ray
from ray.train import ScalingConfig

from raydsinfer.checkpoint import DeepSpeedCheckpoint
from raydsinfer.config import EngineConfig
from raydsinfer.deepspeed_predictor import DeepSpeedPredictor
from raydsinfer.errors import VerificationError
from tests.clusters import OBJECT_STORE_BYTES, assert_nothing_left
from tests.commands import Commands
from tests.model_faults import FAULTS_FILE
from tests.models import plain_greedy, write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]
PROMPTS = ["hello", "a longer prompt", "third"]


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster whose engines are wrong as the file says that this yields."""
    path = tmp_path_factory.mktemp("faults") / "faults.json"
    path.write_text("{}")
    root = str(Path(__file__).parents[2])
    ray.shutdown()
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        logging_level="ERROR",
        runtime_env={
            "env_vars": {
                FAULTS_FILE: str(path),
                "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
            },
            "worker_process_setup_hook": "tests.model_faults.damage_engines",
        },
    )
    yield path
    ray.shutdown()


def test_down_the_whole_ladder_and_a_restart_at_its_foot(faults: Path, tmp_path: Path) -> None:
    faults.write_text(json.dumps({"kernel_inject": "bend_injected", "autotp": "swap_qkv"}))
    model = write_tiny_model("opt", tmp_path / "opt")
    config = EngineConfig(kernel_inject=True, max_tokens=64, max_batch_size=4, hf_home=str(tmp_path / "home"))
    checkpoint, told = DeepSpeedCheckpoint.from_pretrained(model, config), []
    with DeepSpeedPredictor.from_checkpoint(checkpoint, on_progress=told.append) as predictor:
        assert predictor.group.load_report.mode == "plain"
        assert predictor.group.load_report.verification.rung == "static plain"
        assert predictor.num_restarts == 0, "nothing died"
        ways = ["kernel injection", "continuous AutoTP", "static AutoTP"]
        lines = [line for line in told if line.startswith("the model's text is not right: ")]
        assert [line.split(": ")[1] for line in lines] == ways
        assert all(": single: token 0: " in line for line in lines)
        assert lines[-1].endswith("Next: static plain")
        [rank] = predictor.group.actors
        answers = predictor.predict(pd.DataFrame({"prompt": PROMPTS}), max_new_tokens=6)
        # What is right stays so: the gang that takes the place of one that died is not looked at again.
        ray.kill(rank)
        again = predictor.predict(pd.DataFrame({"prompt": PROMPTS}), max_new_tokens=6)
        assert predictor.num_restarts == 1
        assert predictor.group.load_report.mode == "plain"
        assert predictor.group.load_report.verification is None
    assert list(again["output"]) == list(answers["output"])
    assert list(answers["error"]) == [""] * 3
    assert list(answers["output"]) == plain_texts(model, 6)
    assert_nothing_left()


def plain_texts(model: Path, num_tokens: int) -> list[str]:
    """What transformers answers to the prompts."""
    from raydsinfer.engines.tokenizer import HuggingFaceTokenizer

    tokenizer = HuggingFaceTokenizer(str(model))
    expected = plain_greedy(model, [tokenizer.encode(prompt) for prompt in PROMPTS], num_tokens)
    return [tokenizer.decode(tokens) for tokens in expected]


def test_kernels_that_auto_chose_and_cannot_be_built(faults: Path, tmp_path: Path) -> None:
    faults.write_text(json.dumps({"kernels": "unbuilt"}))
    model, home = write_tiny_model("opt", tmp_path / "opt"), str(tmp_path / "home")
    config = EngineConfig(engine="auto", batching="static", max_tokens=64, max_batch_size=4, strict=True, hf_home=home)
    checkpoint, told = DeepSpeedCheckpoint.from_pretrained(model, config), []
    with DeepSpeedPredictor.from_checkpoint(checkpoint, on_progress=told.append) as predictor:
        report = predictor.group.load_report
        assert (report.mode, report.batching, report.verification.rung) == ("autotp", "static", "static AutoTP")
        assert report.verification.canaries
        assert predictor.num_restarts == 0
        output = predictor.predict(pd.DataFrame({"prompt": PROMPTS}), max_new_tokens=6)
    [step] = [line for line in told if ": not possible: " in line]
    assert step.endswith("DeepSpeed's kernels cannot be built: no nvcc here. Next: static AutoTP")
    assert list(output["error"]) == [""] * 3
    assert list(output["output"]) == plain_texts(model, 6)
    assert_nothing_left()


def test_the_command_and_strict(faults: Path, tmp_path: Path) -> None:
    faults.write_text(json.dumps({"autotp": "change_other_rank"}))
    model, golden = write_tiny_model("llama", tmp_path / "llama"), tmp_path / "golden.json"
    config = EngineConfig(max_tokens=64, strict=True, hf_home=str(tmp_path / "home"))
    with pytest.raises(VerificationError) as caught:
        DeepSpeedPredictor.from_checkpoint(
            DeepSpeedCheckpoint.from_pretrained(model, config), scaling_config=ScalingConfig(num_workers=2)
        )
    assert [way for way, _ in caught.value.attempts] == ["continuous AutoTP"]
    assert_nothing_left()
    flags = ("--cpu-ranks", "1", "--max-tokens", "64")  # commands are jobs of their own, whose engines are right
    with Commands() as commands:
        code, out, err = commands.run("verify", str(model), *flags, "--write-golden", str(golden))
        assert code == 0, err
        assert "continuous AutoTP is right: equal to plain transformers within rounding" in out
        content = json.loads(golden.read_text())
        for reference in content["references"]:
            for step in reference["steps"]:
                step["best_logprobs"] = [value - 1 for value in step["best_logprobs"]]
        golden.write_text(json.dumps(content))
        code, out, err = commands.run("verify", str(model), *flags, "--golden", str(golden), "--strict")
    assert code == 1
    assert "is off by 1" in out
    assert "the model's text is not right here" in err
    assert err.count("continuous AutoTP: single: token 0: the log-probability of") == 1, err
    assert "static" not in err
    assert_nothing_left()
