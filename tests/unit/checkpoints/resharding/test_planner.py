"""Which tensor goes where: decided without reading anything."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.checkpoints.resharding.plan import Entry, OutputFile
from raydsinfer.checkpoints.resharding.planner import Wanted, layer_of, plan_layers, plan_ranks
from raydsinfer.checkpoints.tensors import ITEM_BYTES, WHOLE, Slice
from raydsinfer.errors import InvalidSettingError


def wanted(name: str, *shape: int, dtype: str = "float16") -> Wanted:
    return Wanted(name=name, dtype=dtype, shape=shape)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.7.self_attn.q_proj.weight", "model.layers.7"),
        ("h.10.attn.bias", "h.10"),
        ("0.weight", "0"),
        ("model.layers.3.experts.12.w1.weight", "model.layers.3"),
        ("decoder.layers.2.norm", "decoder.layers.2"),
        ("lm_head.weight", None),
        ("model.norm2.weight", None),
        ("layers.weight.0", None),
    ],
)
def test_a_layer_is_named_up_to_its_number(name: str, layer: str | None) -> None:
    assert layer_of(name) == layer


def test_each_layer_is_whole_in_a_file_and_layers_are_in_order() -> None:
    names = ["m.layers.10.a", "m.layers.2.a", "embed", "m.layers.10.b", "m.layers.2.b", "norm"]
    plan = plan_layers([wanted(name, 4) for name in names], 10**6)
    assert [[entry.name for entry in file.entries] for file in plan.files] == [
        ["embed", "norm"],
        ["m.layers.2.a", "m.layers.2.b"],
        ["m.layers.10.a", "m.layers.10.b"],
    ]
    assert [file.name for file in plan.files] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


def test_other_tensors_are_split_at_the_limit_and_layers_never() -> None:
    tensors = [wanted(name, 1000) for name in ("a", "b", "c", "m.0.x")]
    plan = plan_layers(tensors, 2 * 2000 + 1500)
    assert [[entry.name for entry in file.entries] for file in plan.files] == [["a", "b"], ["c"], ["m.0.x"]]
    with pytest.raises(InvalidSettingError, match=r"max_shard_size.*at least 21\d\d bytes .*layer m\.0 needs them"):
        plan_layers(tensors, 2000)


def test_the_limit_that_the_error_names_is_enough() -> None:
    tensors = [wanted("m.0.x", 1000)]
    with pytest.raises(InvalidSettingError) as caught:
        plan_layers(tensors, 5)
    enough = int(caught.value.expected.split()[2])
    assert plan_layers(tensors, enough).num_bytes == enough


def test_a_single_tensor_may_be_larger_than_a_file() -> None:
    plan = plan_layers([wanted("a", 10), wanted("b", 5000), wanted("c", 10)], 2000)
    assert [len(file.entries) for file in plan.files] == [1, 1, 1]


def test_ranks_get_files_of_their_own_and_share_what_is_whole() -> None:
    halves = (Slice(0, ((0, 3),)), Slice(0, ((3, 4), (1, 2))))
    rules = {"norm": (WHOLE, WHOLE), "q": halves, "r": halves}
    plan = plan_ranks([wanted("norm", 4), wanted("q", 4, 5), wanted("r", 4, 5)], rules, 2, 10**6)
    shapes = {file.name: {entry.name: entry.shape for entry in file.entries} for file in plan.files}
    assert shapes == {
        "model-shared-00001-of-00001.safetensors": {"norm": (4,)},
        "model-rank-000-of-002-00001-of-00001.safetensors": {"q": (3, 5), "r": (3, 5)},
        "model-rank-001-of-002-00001-of-00001.safetensors": {"q": (2, 5), "r": (2, 5)},
    }
    assert [len(stripe.files) for stripe in plan.stripes] == [1, 2]


def test_files_of_all_ranks_are_cut_at_the_same_tensors() -> None:
    uneven = (Slice(0, ((0, 900),)), Slice(0, ((900, 1000),)))
    names = ["a", "b", "c"]
    plan = plan_ranks([wanted(n, 1000) for n in names], dict.fromkeys(names, uneven), 2, 2 * 1800 + 1500)
    assert [[[e.name for e in file.entries] for file in stripe.files] for stripe in plan.stripes] == [
        [["a", "b"], ["a", "b"]],
        [["c"], ["c"]],
    ]


def test_a_header_says_where_the_bytes_are() -> None:
    entries = (
        Entry(name="ä", dtype="bfloat16", shape=(2, 3)),
        Entry(name="none", dtype="float16", shape=(0, 7)),
        Entry(name="scalar", dtype="bool", shape=()),
    )
    file = OutputFile(name="f", entries=entries)
    header = file.header()
    assert len(header) % 8 == 0
    assert int.from_bytes(header[:8], "little") == len(header) - 8
    said = json.loads(header[8:])
    assert said["__metadata__"] == {"format": "pt"}  # transformers insists
    assert said["ä"] == {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}
    assert said["none"]["data_offsets"] == [12, 12]
    assert said["scalar"]["data_offsets"] == [12, 13]
    assert file.num_bytes == len(header) + 13


SIZES = st.lists(st.tuples(st.integers(0, 5000), st.sampled_from(["float32", "float16", "int8"])), max_size=12)


@given(sizes=SIZES, limit=st.integers(1, 20_000), tp_size=st.integers(1, 4))
def test_every_tensor_is_written_once_aligned_and_within_the_limit(
    sizes: list[tuple[int, str]], limit: int, tp_size: int
) -> None:
    tensors = [wanted(f"t{i}", size, dtype=dtype) for i, (size, dtype) in enumerate(sizes)]
    rules = {
        t.name: tuple(Slice(0, ((0, t.shape[0] // (rank + 1)),)) for rank in range(tp_size)) if i % 2 else (WHOLE,)
        for i, t in enumerate(tensors)
    }
    plan = plan_ranks(tensors, rules, tp_size, limit)
    written = sorted((e.name, rank) for s in plan.stripes for rank, f in enumerate(s.files) for e in f.entries)
    expected = [(t.name, rank) for i, t in enumerate(tensors) for rank in range(tp_size if i % 2 else 1)]
    assert written == sorted(expected)
    for file in plan.files:
        assert file.num_bytes <= limit or len(file.entries) == 1
        position = len(file.header())
        for entry in file.entries:
            assert position % ITEM_BYTES[entry.dtype] == 0
            position += entry.num_bytes
