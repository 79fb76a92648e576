import pytest

from raydsinfer.config import EngineConfig
from raydsinfer.engines.verification.ladder import next_rung, rung_of


@pytest.mark.parametrize(
    ("mode", "batching", "rung"),
    [
        ("kernel_inject", "static", "kernel injection"),
        ("autotp", "continuous", "continuous AutoTP"),
        ("autotp", "static", "static AutoTP"),
        ("plain", "continuous", "continuous plain"),
        ("plain", "static", "static plain"),
    ],
)
def test_the_rung_that_an_engine_stands_on(mode, batching, rung):
    assert rung_of(mode, batching) == rung


def walk(first, num_ranks, **config):
    rung, settings, steps = first, EngineConfig(**config), []
    while (found := next_rung(rung, settings, num_ranks)) is not None:
        rung, settings = found
        steps.append(rung)
    return steps, settings


def test_from_top_to_bottom():
    steps, config = walk("kernel injection", 1, kernel_inject=True)
    assert steps == ["continuous AutoTP", "static AutoTP", "static plain"]
    assert (config.kernel_inject, config.ds_inference, config.batching) == (False, False, "static")
    steps, config = walk("kernel injection", 2, kernel_inject=True)
    assert steps == ["continuous AutoTP", "static AutoTP"]
    assert (config.kernel_inject, config.ds_inference, config.batching) == (False, True, "static")


def test_what_the_kernels_keep_in_their_own_form_stays_behind():
    steps, config = walk("kernel injection", 1, kernel_inject=True, save_mp_checkpoint_path="/weights/cut")
    assert steps == ["continuous AutoTP", "static AutoTP", "static plain"]
    assert config.save_mp_checkpoint_path is None


def test_only_what_the_settings_allow():
    assert walk("continuous AutoTP", 2)[0] == ["static AutoTP"]
    assert walk("static AutoTP", 2, batching="static")[0] == []
    assert walk("kernel injection", 2, kernel_inject=True, batching="static")[0] == ["static AutoTP"]
    assert walk("static AutoTP", 1, save_mp_checkpoint_path="/cut")[0] == []
    assert walk("continuous plain", 1, ds_inference=False)[0] == ["static plain"]
    assert walk("static plain", 1, ds_inference=False)[0] == []


def test_other_settings_stay():
    _, config = next_rung("kernel injection", EngineConfig(kernel_inject=True, max_tokens=77, dtype="float16"), 2)
    assert (config.max_tokens, config.dtype) == (77, "float16")
