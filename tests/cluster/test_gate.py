"""The gate on real process groups: right engines pass, each kind of wrong one does not, and it is said why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydsinfer.errors import GoldenFileError
from raydsinfer.resharding import reshard
from tests.gate_cases import Case, load
from tests.models import write_tiny_model
from tests.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]
PADDED = ("padded, row 1", "padded, row 2", "padded to long")  # rows that have padding beside them


def test_each_kind_of_wrong_model_is_caught(tmp_path: Path) -> None:
    llama, opt = (write_tiny_model(family, tmp_path / family) for family in ("llama", "opt"))
    static: dict[str, Any] = {"batching": "static"}
    faulty = [
        Case(llama, static, "swap_qkv"),
        Case(opt, {}, "swap_qkv"),
        Case(llama, static, "skip_layer"),
        Case(llama, {}, "empty_layer"),
        Case(llama, static, "change_rotary_base"),
        Case(llama, {}, "change_rotary_base"),
        Case(llama, {"dtype": "bfloat16"}, "change_rotary_base"),
        Case(llama, static, "change_other_rank"),
        Case(opt, {}, "change_other_rank"),
        Case(opt, {"dtype": "bfloat16"}, "swap_qkv"),
        Case(llama, static, "change_embedding_of_other_rank"),
        Case(llama, static, "not_a_number"),
        Case(llama, static, "ignore_padding"),
        Case(opt, static, "ignore_padding"),
    ]
    well = [
        Case(llama, {"dtype": "bfloat16"}),
        Case(opt, {**static, "dtype": "bfloat16"}),
        Case(llama, {**static, "max_batch_size": 1}),
        Case(opt, {"use_cache": False}),
        Case(opt, {"max_tokens": 2}),
    ]
    done = run_ranks(2, load, [*faulty, *well], timeout_s=300)
    for case in done[: len(faulty)]:
        assert "token " in case.differences, case
    for case in done[len(faulty) - 2 : len(faulty)]:  # the padding: rows without any are right, and it says so
        wrong = {line.split(":")[0] for line in case.differences.splitlines()}
        assert wrong
        assert wrong <= set(PADDED)
    assert "not numbers" in done[len(faulty) - 3].differences
    for case in done[len(faulty) :]:
        assert case.source == "transformers"


def test_golden_files_memory_and_forms_of_weights(tmp_path: Path) -> None:
    model, other = (write_tiny_model("llama", tmp_path / name, scale=s) for name, s in (("a", 4.0), ("b", 3.0)))
    golden, static = tmp_path / "golden.json", {"batching": "static"}
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with_golden = {"golden": str(golden)}
    home = str(tmp_path / "home")
    (tmp_path / "file").write_text("a file where a directory should be")
    cases = [
        Case(model, golden_to=golden),
        Case(model, with_golden),
        Case(model, {**with_golden, **static}),  # another way to run it
        Case(model, {**with_golden, **static}, "change_rotary_base"),
        Case(other, with_golden),
        Case(model, {**with_golden, "dtype": "bfloat16"}),
        Case(model, {**with_golden, "max_tokens": 64}),
        Case(model, {"golden": str(broken)}),
        Case(model, {"golden": str(tmp_path / "none.json")}),
        # Remembered, by what decides on it: a wrong engine that is remembered as right is not looked at.
        Case(model, {"verify": "once", "hf_home": home}),
        Case(model, {"verify": "once", "hf_home": home}),
        Case(model, {"verify": "once", "hf_home": home, "seed": 7}),
        Case(model, {"verify": "once", "hf_home": home, **static}, "change_rotary_base"),
        Case(model, {"verify": "once", "hf_home": home, **static}, "change_rotary_base"),  # no failure is remembered
        Case(model, {"verify": "always", "hf_home": home}, "change_rotary_base"),
        Case(model, {"verify": "off", "hf_home": home, **static}, "change_rotary_base"),
        Case(model, {"verify": "once", "hf_home": str(tmp_path / "file")}),  # nothing can be written there
        Case(model, {"verify": "once", "hf_home": home, "golden": str(broken)}),  # is looked at all the same
        # Weights in other forms.
        Case(reshard(model, tmp_path / "cut", layout="ranks", tp_size=2).target),
        Case(model, {"save_mp_checkpoint_path": str(tmp_path / "kept")}),
        Case(write_tiny_model("opt", tmp_path / "pickled", safe=False)),
        Case(write_tiny_model("llama", tmp_path / "tied", tie_word_embeddings=True)),
    ]
    done = run_ranks(2, load, cases, timeout_s=300)
    right = [case.source for case in (*done[:3], *done[9:12], done[16])]
    assert right == ["transformers", "golden", "golden", "transformers", "remembered", "remembered", "transformers"]
    for index in (3, 12, 13, 14):
        assert "token " in done[index].differences
    refused = {
        index: str(done[index].error) for index in (*range(4, 9), 17) if isinstance(done[index].error, GoldenFileError)
    }
    assert sorted(refused) == [4, 5, 6, 7, 8, 17]
    assert "the content of the model's files" in refused[4]
    assert "dtype (float32 instead of bfloat16)" in refused[5]
    assert "max_tokens" in refused[6]
    assert "is not JSON" in refused[7]
    assert "cannot be read (No such file or directory)" in refused[8]
    assert done[15].report.verification is None
    assert [case.source for case in done[18:]] == ["transformers"] * 4


def test_one_rank_with_families_that_need_it_and_kernel_injection(tmp_path: Path) -> None:
    models = [write_tiny_model(family, tmp_path / family) for family in ("gpt2", "bloom", "opt")]
    cases = [Case(model, {"ds_inference": plain}) for model in models for plain in (False, True)]
    kernels = Case(models[-1], {"kernel_inject": True}, "bend_injected")  # the last: DeepSpeed keeps its state
    *done, wrong = run_ranks(1, load, [*cases, kernels], timeout_s=300)
    assert [case.source for case in done] == ["transformers"] * len(cases)
    assert wrong.differences.startswith("single: token 0")
    assert wrong.error.attempts[0][0] == "kernel injection"
