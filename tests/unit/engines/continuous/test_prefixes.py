"""Names of pages: equal exactly where everything up to their end is equal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.engines.continuous.prefixes import extend_chain

texts = st.lists(st.integers(0, 2), max_size=12)


def chain_of(token_ids: list[int], page_size: int) -> list[bytes]:
    chain: list[bytes] = []
    extend_chain(chain, token_ids, page_size)
    return chain


@given(texts, texts, st.integers(1, 4))
def test_names_are_equal_as_far_as_the_texts_are(one: list[int], other: list[int], page_size: int) -> None:
    names, others = chain_of(one, page_size), chain_of(other, page_size)
    assert len(names) == len(one) // page_size
    for index, (name, other_name) in enumerate(zip(names, others, strict=False)):
        end = (index + 1) * page_size
        assert (name == other_name) == (one[:end] == other[:end])


@given(texts, st.integers(0, 12), st.integers(1, 4))
def test_a_chain_that_grows_is_the_chain_of_the_whole(token_ids: list[int], cut: int, page_size: int) -> None:
    chain = chain_of(token_ids[:cut], page_size)
    extend_chain(chain, token_ids, page_size)
    assert chain == chain_of(token_ids, page_size)


def test_a_token_is_not_mistaken_for_others_with_the_same_digits() -> None:
    assert chain_of([1, 11], 2) != chain_of([11, 1], 2)
    assert chain_of([256], 1) != chain_of([1], 1)
