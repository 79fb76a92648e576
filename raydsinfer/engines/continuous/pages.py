"""Who holds which page of the KV cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PageTable:
    """Pages of one sequence.

    Attributes:
        pages: In the order of the positions. Plans hand out this list itself: it grows, and is replaced by a
            new one when the pages are given back.
        num_private: How many of them no other sequence ever took since they came into use.
    """

    __slots__ = ("num_private", "pages")

    def __init__(self) -> None:
        self.pages: list[int] = []
        self.num_private = 0


class PagePool:
    """All pages: free, held by one or more tables, or kept for their content until somebody needs room.

    Pages in use = `num_common` + the tables' `num_private`.

    Attributes:
        num_pages: How many there are.
        num_common: Pages in use that more than one sequence took.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.num_common = 0
        self._free = list(range(num_pages - 1, -1, -1))  # a stack: the lowest number is taken first
        self._kept: OrderedDict[int, None] = OrderedDict()  # named but not held, least recently used first
        self._num_holders = [0] * num_pages
        self._writer: list[PageTable | None] = [None] * num_pages  # of a private page: its only holder
        self._name: list[bytes | None] = [None] * num_pages
        self._page_of: dict[bytes, int] = {}

    @property
    def num_available(self) -> int:
        """Pages that can be taken: free ones, and kept ones that would lose their content."""
        return len(self._free) + len(self._kept)

    def grow(self, table: PageTable, num: int = 1) -> bool:
        """Give a table `num` more pages to write, or none if there are not so many."""
        if num > len(self._free) + len(self._kept):
            return False
        for _ in range(num):
            page = self._free.pop() if self._free else self._evict()
            self._num_holders[page] = 1
            self._writer[page] = table
            table.pages.append(page)
        table.num_private += num
        return True

    def known(self, chain: Sequence[bytes]) -> list[int]:
        """Pages that hold the longest known beginning of `chain`."""
        pages: list[int] = []
        for name in chain:
            page = self._page_of.get(name)
            if page is None:
                break
            pages.append(page)
        return pages

    def num_kept(self, pages: Sequence[int]) -> int:
        """How many of `pages` nobody holds, so that sharing them leaves fewer available."""
        return sum([not self._num_holders[page] for page in pages])

    def share(self, table: PageTable, pages: Sequence[int]) -> None:
        """Let a table hold, and only read, pages that are `known`."""
        for page in pages:
            if not self._num_holders[page]:
                del self._kept[page]
                self.num_common += 1
            elif (writer := self._writer[page]) is not None:
                writer.num_private -= 1
                self._writer[page] = None
                self.num_common += 1
            self._num_holders[page] += 1
        table.pages.extend(pages)

    def publish(self, page: int, name: bytes) -> None:
        """Make a full page known; the first page of a name stays the one that is found."""
        if name not in self._page_of and self._name[page] is None:
            self._page_of[name] = page
            self._name[page] = name

    def release(self, table: PageTable) -> None:
        """Take all pages from a table.

        Raises:
            ValueError: A page that nobody holds; the books are wrong.
        """
        # From the end: of two kept pages the later one is lost first, which alone is of no use.
        for page in reversed(table.pages):
            if not self._num_holders[page]:
                raise ValueError(f"page {page} is released, but nobody holds it")
            self._num_holders[page] -= 1
            if not self._num_holders[page]:
                self._put_back(page)
        table.pages, table.num_private = [], 0

    def _put_back(self, page: int) -> None:
        if self._writer[page] is None:
            self.num_common -= 1
        self._writer[page] = None
        if self._name[page] is None:
            self._free.append(page)
        else:
            self._kept[page] = None

    def _evict(self) -> int:
        page, _ = self._kept.popitem(last=False)
        name = self._name[page]
        if name is not None:
            del self._page_of[name]
            self._name[page] = None
        return page
