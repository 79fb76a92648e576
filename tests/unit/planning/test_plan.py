from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raydsinfer.errors import InvalidSettingError
from raydsinfer.planning.gather import ClusterFacts
from raydsinfer.planning.gpus import assumed_gpu
from raydsinfer.planning.holders import Holder
from raydsinfer.planning.model import Stored
from raydsinfer.planning.next_step import next_code, next_commands
from raydsinfer.planning.plan import Plan, make_plan
from tests.unit.planning.facts import A100, T4, UNKNOWN, cluster, model, node, wanted

T4S = (T4,) * 4


def planned(on: ClusterFacts, settings: dict[str, Any] | None = None, family: str = "llama", **changes: Any) -> Plan:
    request = wanted(settings, **changes)
    return make_plan(request, model(family, request.config.max_tokens), on)


def problems(plan: Plan) -> str:
    return "\n".join(f"{problem.what} -> {problem.cure}" for problem in plan.problems)


def test_the_fewest_gpus_and_all_gangs_that_have_room() -> None:
    plan = planned(cluster(node("a", T4S), node("b", T4S, free=3)))
    assert (plan.num_ranks, plan.proposed, plan.engine, plan.dtype) == (2, True, "continuous", "float16")
    assert [gang.ranks_by_node for gang in plan.placed] == [{"b": 2}, {"a": 2}, {"a": 2}]
    assert (plan.gangs_now, plan.gangs_idle, problems(plan)) == (3, 4, "")
    (command,) = next_commands(plan)
    assert command == (
        "raydsinfer generate org/model prompts.jsonl answers.jsonl --num-gpus-per-worker-group 2 --num-worker-groups 3"
    )
    assert "num_workers=2" in next_code(plan)
    assert planned(cluster(node("a"))).num_ranks == 1  # an A100 holds it alone


def test_a_model_that_no_number_of_gpus_holds() -> None:
    plan = planned(cluster(node("a", (replace(T4, total_bytes=2 * 2**30),) * 4)))
    assert plan.num_ranks == 1
    assert "No number of these GPUs will do." in problems(plan)
    assert next_commands(plan) == []


def test_too_few_gpus_asked_for() -> None:
    assert "It fits on 2 GPUs." in problems(planned(cluster(node("a", T4S)), num_ranks=1))


def test_bfloat16_on_a_t4_is_refused_and_float16_is_run_instead() -> None:
    plan = planned(cluster(node("a", T4S)), {"dtype": "bfloat16"})
    assert plan.num_ranks == 2
    assert "this one has 7.5 -> Use dtype='float16'." in problems(plan)
    assert next_commands(plan)[0].endswith("--num-gpus-per-worker-group 2 --num-worker-groups 2 --dtype float16")


def test_kernels_for_heads_that_do_not_divide_and_autotp_is_run_instead() -> None:
    plan = planned(cluster(node("a")), {"kernel_inject": True, "max_running": 64}, family="opt", num_ranks=3)
    assert "40 heads" in problems(plan)
    command = next_commands(plan)[0]
    assert "--kernel-inject" not in command
    assert command.endswith("--num-gpus-per-worker-group 3 --max-running 64 --dtype float16")


def test_where_nothing_is_possible() -> None:
    plan = planned(cluster(node("a", (A100,) * 9)), num_ranks=9)
    assert "Nothing else is possible on 9 GPUs either." in problems(plan)
    assert (plan.best, next_commands(plan), next_code(plan)) == (None, [], "")


def test_no_gpu_in_the_cluster() -> None:
    plan = planned(cluster(node("a", ())))
    assert "no place for the gang: no node can hold a bundle of {" in problems(plan)
    assert "--cpu-ranks N" in problems(plan)
    assert (plan.memory.largest_batch, next_commands(plan)) == (None, [])


def test_no_gpu_here_but_one_that_is_meant() -> None:
    plan = planned(cluster(node("a", ())), assumed=assumed_gpu("T4", None))
    assert (plan.num_ranks, plan.dtype) == (2, "float16")
    assert plan.memory.largest_batch
    assert "no place for the gang" in problems(plan)
    assert next_commands(plan)


def test_cpu_ranks_need_no_gpu() -> None:
    plan = planned(cluster(node("a", ())), use_gpu=False, num_ranks=2)
    assert (plan.dtype, plan.memory.largest_batch, problems(plan)) == ("float32", 32, "")
    assert "--cpu-ranks 2" in next_commands(plan)[0]


def test_gpus_of_different_kinds() -> None:
    plan = planned(cluster(node("a", (A100, A100)), node("b", (T4, T4))))
    assert plan.dtype == "float16"
    assert plan.memory.device_bytes == T4.total_bytes
    assert any("different kinds" in remark and "--accelerator-type" in remark for remark in plan.remarks)


def test_an_accelerator_type_leaves_the_others_out() -> None:
    on = cluster(node("a", (A100, A100)), node("b", (T4, T4)))
    first = replace(on.resources[0], total={**on.resources[0].total, "accelerator_type:A100": 1.0},
                    free={**on.resources[0].free, "accelerator_type:A100": 1.0})  # fmt: skip
    plan = planned(replace(on, resources=(first, on.resources[1])), accelerator_type="A100")
    assert (plan.dtype, plan.memory.device_bytes) == ("bfloat16", A100.total_bytes)
    assert {name for gang in plan.placed for name in gang.ranks_by_node} == {"a"}
    assert "--accelerator-type A100" in next_commands(plan)[0]


def test_code_places_gangs_as_the_command_does() -> None:
    on = cluster(node("a"))
    kind = replace(on.resources[0], total={**on.resources[0].total, "accelerator_type:A100": 1.0},
                   free={**on.resources[0].free, "accelerator_type:A100": 1.0})  # fmt: skip
    plan = planned(replace(on, resources=(kind,)), accelerator_type="A100", placement_strategy="STRICT_PACK")
    code = next_code(plan, address="10.0.0.1:6379")
    compile(code, "next", "exec")
    scaling = "ScalingConfig(num_workers=1, use_gpu=True, placement_strategy='STRICT_PACK', accelerator_type='A100')"
    assert scaling in code
    assert "ray.init(address='10.0.0.1:6379')\n" in code
    plain = next_code(planned(cluster(node("a"))))
    assert "ScalingConfig(num_workers=1, use_gpu=True)\n" in plain
    assert "ray.init" not in plain


def test_a_gpu_that_nobody_tells_of() -> None:
    plan = planned(cluster(node("a", (UNKNOWN,) * 2)))
    assert (plan.num_ranks, plan.memory.largest_batch, problems(plan)) == (1, None, "")
    assert any("Name them: `raydsinfer plan --gpu NAME`" in remark for remark in plan.remarks)


def test_what_auto_chooses_is_said_with_the_reason() -> None:
    auto = wanted({"engine": "auto", "batching": "static", "max_tokens": 64}, num_ranks=1)
    plan = make_plan(auto, model("opt", 64), cluster(node("a")))
    assert plan.engine == "kernel_inject"
    assert any(remark.startswith("engine='auto' took kernel injection: on GPUs static") for remark in plan.remarks)
    assert "--engine auto" in next_commands(plan)[0]
    without = make_plan(auto, model("opt", 64), cluster(node("a", kernels_problem="no nvcc")))
    assert (without.engine, problems(without)) == ("static", "")


def test_what_is_advised_instead_is_not_chosen_anew() -> None:
    settings = {"engine": "auto", "batching": "static", "max_tokens": 64, "dtype": "bfloat16"}
    auto = wanted(settings, num_ranks=1)
    plan = make_plan(auto, model("gpt2", 64), cluster(node("a", (T4,), kernels_problem="no nvcc")))
    assert plan.best is not None
    assert (plan.best.engine, plan.best.dtype) == ("continuous", "float16")
    command = next_commands(plan)[0]
    assert "--engine" not in command
    assert command.endswith("--dtype float16 --max-tokens 64")


def test_kernels_on_cpu_ranks_need_no_compiler() -> None:
    auto = wanted({"engine": "auto"}, num_ranks=2, use_gpu=False)
    plan = make_plan(auto, model("gpt2"), cluster(node("a", kernels_problem="no nvcc")))
    assert (plan.engine, problems(plan)) == ("kernel_inject", "")


def test_others_in_the_way_are_named() -> None:
    holder = Holder(node_id="a", num_gpus=4, who="actor Trainer (pid 7)")
    plan = planned(cluster(node("a", free=0), holders=(holder,)), num_ranks=4)
    assert "no place for the gang: nothing is free for it now: it would wait" in problems(plan)
    assert "Wait for those who hold the GPUs, named below" in problems(plan)
    assert next_commands(plan)  # it would start once they are done


def test_weights_that_were_cut_for_others() -> None:
    facts = replace(model(), stored=Stored(form="ranks", num_files=4, num_bytes=1, tp_size=4))
    plan = make_plan(wanted(num_ranks=2), facts, cluster(node("a")))
    assert "cut for 4 ranks, not 2" in problems(plan)


def test_weights_in_the_form_of_the_kernels_go_to_any_number_of_ranks() -> None:
    facts = replace(model("opt"), stored=Stored(form="deepspeed", num_files=4, num_bytes=1, tp_size=4))
    kernels = make_plan(wanted({"kernel_inject": True}, num_ranks=2), facts, cluster(node("a")))
    assert (kernels.verdict.possible, problems(kernels)) == (True, "")
    auto = make_plan(wanted(num_ranks=2), facts, cluster(node("a")))
    assert "fused layers, which only its kernels have -> Use kernel_inject=True" in problems(auto)
    assert "--kernel-inject" in next_commands(auto)[0]


def test_a_model_that_has_to_be_fetched_first() -> None:
    plan = planned(cluster(node("a", missing_bytes=10**9)), {"hf_home": "/data/hf", "revision": "v1"})
    fetch, generate = next_commands(plan, address="10.0.0.1:6379")
    assert fetch == "raydsinfer fetch org/model --revision v1 --hf-home /data/hf --gpu-only --address 10.0.0.1:6379"
    assert "--revision v1 --hf-home /data/hf --address 10.0.0.1:6379" in generate


def test_what_is_said_is_quoted_and_secrets_are_not_said() -> None:
    request = replace(wanted({"hf_home": "/my data"}), model="https://user:secret@host/a model")
    (command,) = next_commands(make_plan(request, model(), cluster(node("a"))))
    assert "--hf-home '/my data'" in command
    assert "secret" not in command


def test_more_tokens_than_the_model_has_positions() -> None:
    with pytest.raises(InvalidSettingError, match="at most 8192"):
        planned(cluster(node("a")), {"max_tokens": 9000})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem": "no answer"}, "could not be looked at: no answer"),
        ({"compiler_problem": "there is no C compiler"}, "would run uncompiled, and slower: there is no C compiler"),
        ({"versions": {"ray": "2.53.0"}}, "ray is not the same everywhere"),
        ({"gpus": (replace(A100, free_bytes=10**9),) * 4}, "4 of 4 GPUs have less than gpu_memory_utilization=0.9"),
    ],
)
def test_what_is_good_to_know(changes: dict[str, Any], said: str) -> None:
    plan = planned(cluster(node("a"), node("b", **changes)))
    assert any(said in remark for remark in plan.remarks)
