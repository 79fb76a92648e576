"""Whole machines, and that every trouble has a cure."""

from dataclasses import fields, replace

import pytest

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.judges.machine import judge
from raydsinfer.doctor.verdicts import as_json, worst
from tests.unit.doctor.machines import h100s, laptop

CRASHED = ProbeFailed(reason="its process died of SIGSEGV", output="last words")


def test_a_good_machine_is_green_and_needs_no_cure() -> None:
    verdicts = judge(h100s())
    assert [(v.level, v.cure) for v in verdicts] == [("green", "")] * len(verdicts)
    assert [v.subject for v in verdicts] == [
        "Python", "packages", "driver", "torch", "GPU 0, 1", "NCCL", "C compiler", "C++ compiler", "nvcc", "ninja",
        "DeepSpeed kernels", "its other ops", "host memory", "/dev/shm", "limits", "models", "Ray", "local Ray",
    ]  # fmt: skip


def test_a_laptop_works_but_has_no_gpu() -> None:
    verdicts = judge(laptop())
    assert [v.subject for v in verdicts if v.level != "green"] == ["GPU"]
    assert worst(verdicts) == "yellow"


@pytest.mark.parametrize("probe", [field.name for field in fields(Machine)])
def test_a_probe_that_fails_alone_is_told_of_and_the_others_are_judged(probe: str) -> None:
    machine = replace(h100s(), **{probe: CRASHED})  # type: ignore[arg-type]
    told = [v for v in judge(machine) if "SIGSEGV" in v.found]
    assert [v.level in ("yellow", "red") for v in told] == [True]
    assert len(judge(machine)) >= 10


def test_all_probes_may_fail() -> None:
    machine = Machine(**{field.name: CRASHED for field in fields(Machine)})  # type: ignore[arg-type]
    assert worst(judge(machine)) == "red"


def test_what_may_only_be_slow_can_have_longer() -> None:
    machine = replace(h100s(), torch=ProbeFailed(reason="no answer within 1 s", timed_out=True))
    (torch,) = [v for v in judge(machine) if v.subject == "torch"]
    assert torch.cure.startswith("If it is only slow, give it longer: --timeout. Install torch")
    assert "--timeout" not in " ".join(v.cure for v in judge(replace(machine, torch=CRASHED)))


def test_json() -> None:
    told = as_json(judge(laptop()))
    assert told["level"] == "yellow"
    assert {"subject", "level", "found", "cure"} == set(told["verdicts"][0])
    assert as_json([])["level"] == "green"
