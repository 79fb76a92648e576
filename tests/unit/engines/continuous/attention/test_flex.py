"""What the compiled kernel is told to read. The kernel itself runs in tests/gpu: without compiling, torch asks the
mask about every position of the cache instead of keeping to the blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from raydsinfer.engines.continuous.attention.flex import FlexDecode
from tests.paged import Paged

LENGTHS = [1, 7, 20, 16, 33, 64, 65, 192]


def read_blocks(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    block_mask: Any,
    scale: float,
    score_mod: Any,
    **_: Any,
) -> torch.Tensor:
    """As the kernel does: all of the full blocks, and what the mask says of the partial ones."""
    visible = torch.zeros(len(query), keys.shape[2], dtype=torch.bool)
    within = torch.arange(block_mask.BLOCK_SIZE[1])
    for row in range(len(query)):
        for page in block_mask.full_kv_indices[row, 0, 0, : block_mask.full_kv_num_blocks[row, 0, 0]]:
            visible[row, page * len(within) + within] = True
        for page in block_mask.kv_indices[row, 0, 0, : block_mask.kv_num_blocks[row, 0, 0]]:
            places = page * len(within) + within
            visible[row, places] = block_mask.mask_mod(torch.tensor(row), torch.tensor(0), torch.tensor(0), places)
    group = query.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(group, 1).expand(len(query), -1, -1, -1) for part in (keys, values))
    if score_mod is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=visible[:, None, None], scale=scale)
    row, head, key = torch.meshgrid(*map(torch.arange, (len(query), query.shape[1], keys.shape[2])), indexing="ij")
    bias = score_mod(torch.zeros(row.shape), row, head, torch.tensor(0), key).masked_fill(~visible[:, None], -torch.inf)
    return scaled_dot_product_attention(query, keys, values, attn_mask=bias[:, :, None], scale=scale)


def make_decode(paged: Paged, sizes: tuple[int, ...], slopes: torch.Tensor | None = None) -> FlexDecode:
    decode = FlexDecode(paged.cache, paged.tables, sizes, slopes, compiled=False)
    decode._function = read_blocks
    return decode


@pytest.mark.parametrize(("heads", "query_heads"), [(2, 4), (3, 3), (1, 5)])
@pytest.mark.parametrize("page_size", [16, 64])
@pytest.mark.parametrize("slots", [[7], [3, 0, 4, 1], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_decode_rows_see_their_own_pages(slots: list[int], page_size: int, heads: int, query_heads: int) -> None:
    paged = Paged(LENGTHS, page_size=page_size, num_heads=heads, num_query_heads=query_heads)
    rows, query = paged.rows(slots), paged.query(len(slots))
    decode = make_decode(paged, (2, 6))  # 4 rows become 6, 8 are more than any size
    decode.begin(rows, rows.longest)
    found = decode.attend(0, query, rows=rows, longest=rows.longest, scale=0.3, window=None)
    assert found.shape == query.shape
    for index, slot in enumerate(slots):
        expected = paged.attended(slot, LENGTHS[slot] - 1, query[index : index + 1], scale=0.3)
        torch.testing.assert_close(found[index : index + 1], expected)


def test_the_mask_is_made_anew_for_each_step_and_knows_rows_of_padding() -> None:
    paged = Paged(LENGTHS, page_size=16)
    decode = make_decode(paged, (4,))
    for slots in ([2, 5], [7, 1, 0], [5, 2]):
        rows, query = paged.rows(slots, padded=4), paged.query(4)
        found = decode.attend(0, query, rows=rows, longest=rows.longest, scale=0.3, window=None)
        for index, slot in enumerate(slots):
            expected = paged.attended(slot, LENGTHS[slot] - 1, query[index : index + 1], scale=0.3)
            torch.testing.assert_close(found[index : index + 1], expected)
        assert found.isfinite().all()


@pytest.mark.parametrize("slots", [[3, 0, 4, 1], [7], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_rows_are_biased_by_the_distance_of_keys(slots: list[int]) -> None:
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    paged = Paged(LENGTHS, page_size=16)
    paged.rows(range(len(LENGTHS)))  # all pages are in the tables
    stale = paged.tables.device[slots[0]]
    stale[-(-LENGTHS[slots[0]] // 16) :] = paged.pages[slots[-1]][0]  # where it lay once is another row's first page
    decode = make_decode(paged, (2, 6), slopes)
    for _ in range(2):
        rows, query = paged.rows(slots), paged.query(len(slots))
        found = decode.attend(0, query, rows=rows, longest=rows.longest, scale=0.3, window=None)
        for index, slot in enumerate(slots):
            one = query[index : index + 1]
            expected = paged.attended(slot, LENGTHS[slot] - 1, one, scale=0.3, slopes=slopes)
            torch.testing.assert_close(found[index : index + 1], expected)
