from pathlib import Path

import pytest

from raydsinfer.cli.dry_run import model_lines, placement_lines
from raydsinfer.cli.plan import ModelSize, place_gangs
from raydsinfer.groups.placement import GangRequest, NodeResources


def node(address: str, gpus: float, free: float | None = None) -> NodeResources:
    return NodeResources(address=address, total={"GPU": gpus}, free={"GPU": gpus if free is None else free})


def request(num_ranks: int, strategy: str = "PACK") -> GangRequest:
    return GangRequest(gang="gang", num_ranks=num_ranks, bundle={"GPU": 1.0}, strategy=strategy)


@pytest.mark.parametrize(
    ("strategy", "ranks", "gpus", "expected"),
    [
        ("PACK", 2, [4, 2], {"b": 2}),
        ("PACK", 5, [4, 2], {"a": 4, "b": 1}),
        ("SPREAD", 3, [4, 2], {"a": 2, "b": 1}),
        ("STRICT_SPREAD", 2, [4, 2], {"a": 1, "b": 1}),
        ("STRICT_PACK", 3, [4, 2], {"a": 3}),
        ("STRICT_PACK", 5, [4, 2], {}),
        ("STRICT_SPREAD", 3, [4, 2], {}),
        ("PACK", 7, [4, 2], {}),
    ],
)
def test_where_a_gang_would_go(strategy: str, ranks: int, gpus: list[int], expected: dict[str, int]) -> None:
    nodes = [node(name, have) for name, have in zip("ab", gpus, strict=True)]
    (placed,) = place_gangs(request(ranks, strategy), 1, nodes)
    assert placed.ranks_by_node == expected
    assert bool(placed.problem) == (not expected)


def test_gangs_do_not_share_what_is_free() -> None:
    placed = place_gangs(request(2), 3, [node("a", 4), node("b", 2, free=1)])
    assert [gang.ranks_by_node for gang in placed] == [{"a": 2}, {"a": 2}, {}]
    assert "would wait" in placed[2].problem
    assert placement_lines(placed)[0] == ("2 gangs", "a: 2 rank(s)")
    assert placement_lines(placed)[-1][0] == "problem"


def test_parameters_a_rank() -> None:
    size = ModelSize(mode="autotp", dtype="float16", bytes_per_parameter=2, num_sharded=3 * 2**30, num_whole=2**30)
    assert size.num_per_rank(3) == 2 * 2**30
    lines = dict(model_lines(size, 3))
    assert "8.0 GiB in all, about 4.0 GiB a rank" in lines["weights"]
    assert model_lines(None, 2) == [("engine", "echo, which has no model")]


def test_size_of_a_model_without_its_weights(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    from raydsinfer.cli.plan import model_size
    from raydsinfer.config import EngineConfig

    LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    ).save_pretrained(tmp_path)  # fmt: skip
    size = model_size(str(tmp_path), EngineConfig(), 2, use_gpu=True)
    attention, mlp = 64 * 64 * 2 + 64 * 32 * 2, 3 * 64 * 128
    assert size.num_sharded == 3 * (attention + mlp)
    assert size.num_whole == 100 * 64 + 7 * 64
    assert (size.mode, size.dtype, size.bytes_per_parameter) == ("autotp", "float16", 2)
