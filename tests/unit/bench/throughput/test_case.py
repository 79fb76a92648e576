from __future__ import annotations

import pytest

from raydsinfer.bench.throughput.case import engine_configs, settings_from, sized, tokens_of_a_row
from raydsinfer.bench.workloads import BenchRequest, Workload
from raydsinfer.errors import InvalidSettingError, UnknownSettingError

WORKLOAD = Workload(name="w", requests=(BenchRequest((5,) * 100, 3), BenchRequest((5,) * 10, 50)))


def test_engines_get_their_settings() -> None:
    names = ["continuous", "continuous+cuda_graphs=false", "kernel-inject", "transformers"]
    configs = engine_configs(names, {"dtype": "float16"}, {"max_running": 8})
    assert list(configs) == names
    assert [config.cuda_graphs for config in configs.values()] == [True, False, True, True]
    assert {config.dtype for config in configs.values()} == {"float16"}
    assert configs["continuous"].max_running == 8
    assert configs["continuous"].batching == "continuous"
    assert configs["kernel-inject"].max_running == 256
    assert configs["kernel-inject"].kernel_inject
    assert not configs["transformers"].ds_inference


@pytest.mark.parametrize("names", [["vllm"], ["static", "static"], [""]])
def test_an_engine_that_is_none_or_named_twice(names: list[str]) -> None:
    with pytest.raises(InvalidSettingError, match="of continuous, static, kernel-inject, transformers"):
        engine_configs(names, {}, {})


def test_settings_are_read_as_what_they_are() -> None:
    texts = ["cuda-graphs=False", "max_running=7", "gpu_memory_utilization=0.5", "hf_home=/x=y", "seed=none"]
    assert settings_from(texts) == {
        "cuda_graphs": False,
        "max_running": 7,
        "gpu_memory_utilization": 0.5,
        "hf_home": "/x=y",
        "seed": None,
    }
    with pytest.raises(InvalidSettingError, match="NAME=VALUE"):
        settings_from(["cuda_graphs"])
    with pytest.raises(UnknownSettingError, match="max_running"):
        engine_configs(["static"], settings_from(["max_num_seqs=3"]), {})


def test_static_engines_need_room_for_padded_rows() -> None:
    configs = engine_configs(["continuous", "static", "static+max_tokens=99"], {"max_batch_size": 2}, {})
    assert [sized(config, [WORKLOAD]).max_tokens for config in configs.values()] == [103, 150, 99]
    one_by_one = configs["static"].replaced({"max_batch_size": 1})
    assert tokens_of_a_row(WORKLOAD, one_by_one) == 103
