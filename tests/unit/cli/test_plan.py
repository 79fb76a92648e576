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
    assert placement_lines(placed)[0] == ("2 gangs", "2 ranks on a")
    assert placement_lines(placed)[-1][0] == "problem"


def test_what_is_said_of_a_model() -> None:
    size = ModelSize(
        mode="autotp", dtype="float16", bytes_per_parameter=2, num_parameters=4 * 2**30, num_per_rank=2 * 2**30
    )
    lines = dict(model_lines(size))
    assert "8.0 GiB in all, about 4.0 GiB a rank" in lines["weights"]
    assert model_lines(None) == [("engine", "echo, which has no model")]


@pytest.mark.parametrize(
    ("num_ranks", "reported"),
    # What the engine's LoadReport says of SmolLM2-135M on rank 0.
    [(1, 162_826_560), (2, 101_583_168), (3, 73_173_312)],
)
def test_size_of_a_model_without_its_weights(tmp_path: Path, num_ranks: int, reported: int) -> None:
    from transformers import LlamaConfig

    from raydsinfer.cli.plan import model_size
    from raydsinfer.config import EngineConfig

    LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    ).save_pretrained(tmp_path)  # fmt: skip
    size = model_size(str(tmp_path), EngineConfig(), num_ranks, use_gpu=True)
    assert (size.mode, size.dtype, size.bytes_per_parameter) == ("autotp", "float16", 2)
    assert size.num_parameters == 134_515_008
    assert size.num_per_rank == pytest.approx(reported, rel=0.001)
