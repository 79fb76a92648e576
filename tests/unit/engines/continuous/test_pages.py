"""The books of the KV cache's pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.engines.continuous.pages import PagePool, PageTable


def names(*numbers: int) -> list[bytes]:
    return [bytes([number]) for number in numbers]


def filled(pool: PagePool, *numbers: int) -> PageTable:
    """A table with a page for each name, all known."""
    table = PageTable()
    assert pool.grow(table, len(numbers))
    for page, name in zip(table.pages, names(*numbers), strict=True):
        pool.publish(page, name)
    return table


def test_growing_gives_all_pages_or_none() -> None:
    pool, table = PagePool(3), PageTable()
    assert pool.grow(table, 2)
    assert not pool.grow(table, 2)
    assert table.pages == [0, 1]
    assert pool.num_available == 1


def test_a_released_list_is_left_as_it_was_for_steps_in_flight() -> None:
    pool, table = PagePool(3), PageTable()
    pool.grow(table, 2)
    in_flight = table.pages
    pool.release(table)
    pool.grow(table, 1)
    assert in_flight == [0, 1]
    assert table.pages is not in_flight


def test_pages_stay_known_after_release_until_somebody_needs_room() -> None:
    pool = PagePool(3)
    pool.release(filled(pool, 1, 2))
    assert pool.num_available == 3
    assert len(pool.known(names(1, 2))) == 2
    other = PageTable()
    pool.grow(other, 2)  # the free page, then the end of the chain: a page is no use without those before it
    assert len(pool.known(names(1, 2))) == 1
    pool.grow(other, 1)
    assert pool.known(names(1, 2)) == []


def test_the_least_recently_released_page_is_lost_first() -> None:
    pool = PagePool(3)
    first, second, third = filled(pool, 1), filled(pool, 2), filled(pool, 3)
    pool.release(second)
    pool.release(first)
    again = PageTable()
    pool.share(again, pool.known(names(2)))
    pool.release(third)
    pool.release(again)  # used after all others
    assert pool.grow(PageTable(), 1)
    assert pool.known(names(1)) == []
    assert pool.known(names(3))
    assert pool.known(names(2))


def test_a_shared_page_outlives_its_writer() -> None:
    pool = PagePool(1)
    writer, reader = filled(pool, 1), PageTable()
    pool.share(reader, pool.known(names(1)))
    pool.release(writer)
    assert pool.num_available == 0
    assert not pool.grow(PageTable(), 1)
    pool.release(reader)
    assert pool.num_available == 1


def test_of_two_pages_with_one_content_the_first_is_found() -> None:
    pool = PagePool(2)
    first, second = filled(pool, 1), filled(pool, 1)
    assert pool.known(names(1)) == first.pages
    pool.release(second)
    assert pool.grow(PageTable(), 1)  # the second's page was free, not kept
    assert pool.known(names(1)) == first.pages


def test_a_page_is_not_freed_twice() -> None:
    pool, table, copy = PagePool(2), PageTable(), PageTable()
    pool.grow(table, 1)
    copy.pages = list(table.pages)
    pool.release(table)
    with pytest.raises(ValueError, match="page 0 is released, but nobody holds it"):
        pool.release(copy)


# What happens to one of four tables: grow by that many pages, publish a chain of that first name, share what
# is known of it, or release.
actions = st.lists(st.tuples(st.sampled_from("gpsr"), st.integers(0, 3), st.integers(1, 4)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(actions)
def test_the_books_are_right_after_anything(actions: list[tuple[str, int, int]]) -> None:
    pool, tables, content = PagePool(8), [PageTable() for _ in range(4)], {}
    for action, index, num in actions:
        table = tables[index]
        if action == "g":
            before = list(table.pages)
            if pool.grow(table, num):
                for page in table.pages[len(before) :]:
                    assert all(page not in other.pages for other in tables if other is not table)
                    content[page] = b""
        elif action == "p":
            for offset, page in enumerate(table.pages):
                name = bytes([num, offset])
                if content[page] == b"":  # a page is filled once
                    content[page] = name
                pool.publish(page, content[page])
        elif action == "s" and not table.pages:
            known = pool.known([bytes([num, offset]) for offset in range(8)])
            assert [content[page] for page in known] == [bytes([num, offset]) for offset in range(len(known))]
            available, kept = pool.num_available, pool.num_kept(known)
            pool.share(table, known)
            assert pool.num_available == available - kept
        elif action == "r":
            pool.release(table)
        held = {page for table in tables for page in table.pages}
        assert pool.num_available == 8 - len(held)
        assert pool.num_common + sum(table.num_private for table in tables) == len(held)
        assert all(len(set(table.pages)) == len(table.pages) for table in tables)
        for table in tables:
            alone = [page for page in table.pages if sum(page in other.pages for other in tables) == 1]
            assert 0 <= table.num_private <= len(alone)
    for table in tables:
        pool.release(table)
    everything = PageTable()
    assert pool.grow(everything, 8)
    assert sorted(everything.pages) == list(range(8))
