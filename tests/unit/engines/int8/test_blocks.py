"""Every input of a product is summed once, and a large GPU has work for all of its processors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.engines.int8.blocks import KERNEL_ROWS, blocks_for, cut_inputs, most_rows


@given(
    rows=st.integers(1, 300),
    outputs=st.integers(1, 30_000),
    inputs=st.integers(1, 30_000),
    tensor_cores=st.booleans(),
)
def test_each_input_is_in_one_part(rows: int, outputs: int, inputs: int, tensor_cores: bool) -> None:
    cut = blocks_for(rows, outputs, inputs, tensor_cores=tensor_cores)
    for size in (cut.rows, cut.outputs, cut.inputs):
        assert size >= 16
        assert size & (size - 1) == 0, "the kernel takes powers of two"
    inputs_a_part, num_parts = cut_inputs(inputs, cut)
    assert inputs_a_part % cut.inputs == 0, "a block would reach into the next part"
    assert (num_parts - 1) * inputs_a_part < inputs <= num_parts * inputs_a_part
    assert num_parts <= cut.parts


def test_weights_are_read_once_for_up_to_128_rows() -> None:
    assert [blocks_for(rows, 5120, 5120, tensor_cores=True).rows for rows in (1, 16, 17, 64, 100, 128)] == [
        16,
        16,
        32,
        64,
        128,
        128,
    ]


def test_few_outputs_are_cut_by_inputs_and_many_are_not() -> None:
    assert blocks_for(32, 5120, 20480, tensor_cores=True).parts == 8
    assert blocks_for(32, 20480, 5120, tensor_cores=True).parts == 1


def test_floats_are_made_first_where_the_kernel_would_be_slow() -> None:
    assert (most_rows(tensor_cores=True), most_rows(tensor_cores=False)) == (KERNEL_ROWS, 16)
