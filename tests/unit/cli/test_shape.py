from typing import Any

import pytest

from raydsinfer.cli.shape import gang_shape
from raydsinfer.errors import InvalidSettingError


def shape(**values: Any) -> Any:
    nothing = {"num_worker_groups": 1, "max_worker_groups": None, "num_gpus": None, "num_cpu_ranks": None}
    return gang_shape(**{**nothing, **values})


def test_one_gpu_where_nothing_is_said() -> None:
    assert str(shape()) == "1 gang of 1 GPU rank"
    assert shape().scaling_config().num_gpus_per_worker == 1


def test_cpu_ranks_and_several_gangs() -> None:
    wanted = shape(num_cpu_ranks=3, num_worker_groups=2, max_worker_groups=4)
    assert str(wanted) == "2 to 4 gangs of 3 CPU ranks"
    assert (wanted.use_gpu, wanted.num_cpus) == (False, 7)


@pytest.mark.parametrize(
    "values",
    [
        {"num_gpus": 1, "num_cpu_ranks": 1},
        {"num_gpus": 0},
        {"num_worker_groups": 0},
        {"num_worker_groups": 3, "max_worker_groups": 2},
        {"placement_strategy": "PAKC"},
    ],
)
def test_shapes_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettingError):
        shape(**values)
