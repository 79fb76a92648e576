"""How many pages sequences will hold at most, before they end."""

from __future__ import annotations

import numpy as np

_MEMORY = 32  # finished sequences after which an old one counts a third


class LearntShare:
    """How much of what they may generate sequences do generate; an exponential mean that starts at 1.

    Attributes:
        value: From 0 to 1.
    """

    def __init__(self) -> None:
        self.value = 1.0

    def learn(self, num_generated: int, max_new_tokens: int) -> None:
        """Take in a sequence that ended."""
        self.value += (num_generated / max_new_tokens - self.value) / _MEMORY


class PeakEstimate:
    """The future peak of pages of sequences that all go on by one token a step until they end.

    While the one that ends as the ``k``-th last has ``r_k`` tokens to go, the ``k`` longest-lived hold what they
    hold now and ``k * r_k`` tokens more; the peak is the largest such sum. This is the memory estimate of the
    "past-future" scheduler of LightLLM (Gong et al., 2025, arXiv:2507.10150), with pages in place of tokens and a
    mean in place of its draws from past lengths, so that equal calls give equal answers. Rounding to whole pages
    is right on average: what the last pages have free now makes up for what they will have free then.

    Args:
        held: Pages of each sequence now.
        left: Tokens that each is expected to store from now on.
        capacity: Most sequences, those included that are added.
        page_size: Tokens of a page.
    """

    def __init__(self, held: list[int], left: list[int], *, capacity: int, page_size: int) -> None:
        self._num = len(held)
        self._held = np.zeros(capacity, dtype=np.int64)
        self._left = np.zeros(capacity, dtype=np.int64)
        self._held[: self._num] = held
        self._left[: self._num] = left
        self._ranks = np.arange(1, capacity + 1)
        self._page_size = page_size

    def add(self, held: int, left: int) -> None:
        """Count one more sequence."""
        self._held[self._num] = held
        self._left[self._num] = left
        self._num += 1

    def drop(self, num: int) -> None:
        """Take back the last `num` additions."""
        self._num -= num

    def peak(self) -> int:
        """The largest number of pages, now or later."""
        order = np.argsort(-self._left[: self._num], kind="stable")
        held = self._held[order].cumsum()
        grown = self._ranks[: self._num] * self._left[order]
        return int((held - (-grown // self._page_size)).max(initial=0))
