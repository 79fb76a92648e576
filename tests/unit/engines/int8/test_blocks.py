"""Every product is cut so that it is computed once, and so that a large GPU has work for all of its processors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.engines.int8.blocks import blocks_for

SMALLEST_SHARED_MEMORY = 64 * 2**10  # of a processor, of the GPUs that Triton knows: a T4's


@given(rows=st.integers(1, 300), outputs=st.integers(1, 30_000), inputs=st.integers(1, 30_000))
def test_blocks_are_what_the_kernel_can_compute(rows: int, outputs: int, inputs: int) -> None:
    cut = blocks_for(rows, outputs, inputs)
    for size in (cut.rows, cut.outputs, cut.inputs):
        assert size >= 16
        assert size & (size - 1) == 0
    assert 1 <= cut.parts <= -(-inputs // cut.inputs)
    # What is on its way: weights of one byte, activations of two.
    assert cut.inputs * (cut.outputs + 2 * cut.rows) * (cut.num_stages - 1) <= SMALLEST_SHARED_MEMORY


def test_weights_are_read_once_for_up_to_128_rows() -> None:
    assert [blocks_for(rows, 5120, 5120).rows for rows in (1, 16, 17, 64, 100, 128)] == [16, 16, 32, 64, 128, 128]


def test_few_outputs_are_cut_by_inputs_and_many_are_not() -> None:
    assert blocks_for(32, 5120, 20480).parts == 8
    assert blocks_for(32, 20480, 5120).parts == 1
    assert blocks_for(32, 5120, 100).parts == 1  # no more than there are
