import pytest

from raydsinfer.errors import InvalidSettingError
from raydsinfer.planning.gpus import Gpu, assumed_gpu, known_capability, smallest_bytes, weakest
from tests.unit.planning.facts import A100, GIB, T4, UNKNOWN


@pytest.mark.parametrize(
    ("name", "capability", "most_gib"),
    [
        ("T4", (7, 5), 16),
        ("tesla t4", (7, 5), 16),
        ("NVIDIA_TESLA_V100", (7, 0), 16),
        ("A100 80GB", (8, 0), 80),
        ("a100_40g", (8, 0), 40),
        ("NVIDIA H100", (9, 0), 80),
    ],
)
def test_gpus_that_are_known(name: str, capability: tuple[int, int], most_gib: int) -> None:
    gpu = assumed_gpu(name, None)
    assert gpu is not None
    assert gpu.capability == capability
    assert 0.9 * most_gib * GIB < (gpu.total_bytes or 0) < most_gib * GIB
    assert gpu.assumed
    assert "assumed" in str(gpu)


def test_what_the_user_says_of_memory_counts() -> None:
    assert assumed_gpu("T4", 10.0) == Gpu(name="T4", capability=(7, 5), total_bytes=10 * GIB, assumed=True)
    assert assumed_gpu(None, 10.0) == Gpu(total_bytes=10 * GIB, assumed=True)
    assert assumed_gpu(None, None) is None


def test_gpus_that_nobody_knows() -> None:
    with pytest.raises(InvalidSettingError, match=r"--gpu='RTX 9999'.*one of P100, .*T4.*--gpu-memory-gib"):
        assumed_gpu("RTX 9999", None)


@pytest.mark.parametrize("memory_gib", [0.0, -1.0, float("nan"), float("inf")])
def test_memory_that_is_none(memory_gib: float) -> None:
    with pytest.raises(InvalidSettingError, match=r"--gpu-memory-gib=.*more than 0"):
        assumed_gpu("T4", memory_gib)


def test_names_that_drivers_give() -> None:
    assert known_capability("NVIDIA H100 80GB HBM3") == (9, 0)
    assert known_capability("Tesla V100-SXM2-16GB") == (7, 0)
    assert known_capability("NVIDIA A100-SXM4-40GB") == (8, 0)
    assert known_capability("NVIDIA GeForce RTX 4090") is None


def test_the_weakest_counts_and_one_unknown_makes_all_unknown() -> None:
    assert (weakest([A100, T4]), smallest_bytes([A100, T4])) == ((7, 5), 15 * GIB)
    assert (weakest([A100, UNKNOWN]), smallest_bytes([A100, UNKNOWN])) == (None, None)
    assert (weakest([]), smallest_bytes([])) == (None, None)
    assert str(UNKNOWN) == "an unknown GPU"
