from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from raydsinfer.cli.plan_json import plan_json
from raydsinfer.cli.plan_report import placed_lines, print_plan
from raydsinfer.planning.holders import Holder
from raydsinfer.planning.placing import Placed
from raydsinfer.planning.plan import Plan, make_plan
from tests.unit.planning.facts import T4, UNKNOWN, cluster, model, node, wanted


def told(plan: Plan, width: int = 80, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True, legacy_windows=False)
    print_plan(plan, console, **options)
    out: Any = console.file
    return str(out.getvalue())


def t4s(settings: dict[str, Any] | None = None, **changes: Any) -> Plan:
    holder = Holder(node_id="b", num_gpus=1, who="actor [x] (pid 7)", job="python train.py")
    on = cluster(node("a", (T4,) * 4), node("b", (T4,) * 4, free=3), node("c", ()), holders=(holder,))
    request = wanted(settings, **changes)
    return make_plan(request, model("llama", request.config.max_tokens), on)


def words(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


@pytest.mark.parametrize("width", [80, 140])
def test_a_plan_on_a_terminal(width: int) -> None:
    text = told(t4s(), width)
    said = words(text)
    for part in (
        "llama, 8,030,261,248 parameters, 32 layers, 8 key-value heads, 8,192 positions",
        "2 GPU ranks (the fewest that it fits on), continuous AutoTP, float16, max_tokens 1024",
        "bfloat16 needs a GPU of compute capability 8.0 (Ampere) or newer, this one has 7.5. Use dtype='float16'.",
        "keys and values take 64.0 KiB a token",
        "max_running is 256",
        "a: 4 x Tesla T4, 15 GiB, compute capability 7.5; 4 of 4 free; host memory for 4 ranks about 6.4 GiB",
        "1 gang: 2 ranks on b 2 gangs: 2 ranks on a",
        "room for 3 such gangs now, for 4 if the cluster were idle",
        "1 GPU on b: actor [x] (pid 7); job: python train.py",
        "next raydsinfer generate org/model prompts.jsonl answers.jsonl --num-gpus-per-worker-group 2",
    ):
        assert part in said, part
    refused = re.search(r"(\d) bfloat16 needs a GPU", said)
    assert refused
    assert f"continuous AutoTP yes no {refused[1]} yes" in said
    assert max(len(words(line)) for line in text.partition("next")[0].splitlines()) <= width


def test_what_is_refused_stands_with_its_cure() -> None:
    said = words(told(t4s({"dtype": "bfloat16"})))
    assert "problem continuous AutoTP in bfloat16: bfloat16 needs a GPU" in said
    assert "→ Use dtype='float16'." in said
    assert said.endswith("--num-worker-groups 3 --dtype float16")


def test_what_is_not_known_is_said() -> None:
    plan = make_plan(wanted(), model(), cluster(node("a", (UNKNOWN,))))
    said = words(told(plan))
    assert "1 GPU rank (a guess: the memory of the GPU is not known)" in said
    assert "how many fit is not known: nobody tells the memory of the GPU" in said
    assert "a: 1 x an unknown GPU; 1 of 1 free" in said


def test_no_room() -> None:
    said = words(told(t4s(num_ranks=1)))
    assert "no room is left for them" in said
    assert "It fits on 2 GPUs." in said
    assert "next" not in said


def test_disk_for_copies_is_told_with_their_place() -> None:
    said = words(told(t4s({"save_mp_checkpoint_path": "/nvme/cut", "reshard_checkpoint_path": "/nvme/layers"})))
    assert "the model is there; up to 29.8 GiB in /nvme/layers and /nvme/cut while copies are written there" in said


def test_static_batches_and_kernels() -> None:
    assert "for the largest batch, within 15.0 GiB" in words(told(t4s({"batching": "static"})))
    on = cluster(node("a"))
    request = wanted({"kernel_inject": True})
    said = words(told(make_plan(request, model("opt"), on), commands=False))
    assert "the kernels reserve" in said
    assert "32 rows of 1,024 tokens at once, as max_batch_size says; raise it for more" in said
    assert "next" not in said


def test_for_machines() -> None:
    found = json.loads(json.dumps(plan_json(t4s({"dtype": "bfloat16"}), address="10.0.0.1:6379")))
    assert found["ok"] is False
    assert (found["gang"]["num_ranks"], found["gang"]["engine"], found["gang"]["dtype"]) == (
        2,
        "continuous",
        "bfloat16",
    )
    verdict = next(v for v in found["engines"] if (v["engine"], v["dtype"]) == ("static", "bfloat16"))
    assert (verdict["possible"], "7.5" in verdict["why_not"]) == (False, True)
    assert found["memory"]["largest_batch"] > 0
    assert found["gpu_holders"][0]["node"] == "b"
    assert found["placement"]["gangs_if_idle"] == 4
    assert found["next"]["settings"] == {"dtype": "float16"}
    assert found["next"]["commands"][0].endswith("--address 10.0.0.1:6379")
    compile(found["next"]["code"], "next", "exec")
    assert "ray.init(address='10.0.0.1:6379')" in found["next"]["code"]


def test_equal_gangs_are_one_line() -> None:
    placed = [Placed(gang=0, ranks_by_node={"1": 2}), Placed(gang=1, ranks_by_node={"1": 2}),
              Placed(gang=2, ranks_by_node={}, problem="nothing is free")]  # fmt: skip
    assert list(placed_lines(placed, {"1": "10.0.0.1"})) == [
        ("placement", "2 gangs: 2 ranks on 10.0.0.1"),
        ("", "1 gang: nothing is free"),
    ]
