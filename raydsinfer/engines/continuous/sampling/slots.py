"""Each slot's settings and tokens, on the host and on the device."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.sampling.settings import (
    Fractions,
    Integers,
    Passes,
    fractions_of,
    integers_of,
    passes_of,
    union,
)
from raydsinfer.errors import InvalidSettingError

_COLUMNS = 256
"""Histories are read in whole multiples of so many columns, so that few different shapes come up."""


@dataclass(frozen=True, slots=True)
class _Admission:
    whole: Integers[int]
    other: Fractions[float]
    token_ids: Sequence[int]


class SlotTable:
    """What is known of the sequence in each slot. One slot more than there are, greedy, is for padding.

    Args:
        num_slots: Slots that sequences take.
        max_tokens: Tokens of the longest sequence, prompt and new ones together.
        vocab_size: Tokens that the model scores.
        device: torch device as a string.
    """

    def __init__(self, *, num_slots: int, max_tokens: int, vocab_size: int, device: str) -> None:
        self._vocab_size, self._device = vocab_size, device
        self._pin = device.startswith("cuda")
        self.history = torch.zeros(num_slots + 1, max_tokens + 1, dtype=torch.int64, device=device)
        nobody = GenerationConfig()
        whole = integers_of(nobody, num_prompt=0, seed=0, vocab_size=vocab_size).row()
        other = fractions_of(nobody).row()
        self._integers = torch.tensor(whole, device=device).repeat(num_slots + 1, 1)
        self._fractions = torch.tensor(other, dtype=torch.float64, device=device).repeat(num_slots + 1, 1)
        self._passes = [Passes()] * (num_slots + 1)
        self._ends = [0] * (num_slots + 1)
        self._busy: set[int] = set()
        self._admissions: dict[int, _Admission] = {}

    def admit(
        self, slot: int, token_ids: Sequence[int], num_prompt: int, generation: GenerationConfig, seed: int
    ) -> None:
        """A sequence takes a slot, on the host; `flush` tells the device.

        Raises:
            InvalidSettingError: More tokens than `max_tokens`.
        """
        most = self.history.shape[1] - 1
        if len(token_ids) > most:
            raise InvalidSettingError(
                name="tokens of a sequence",
                value=len(token_ids),
                expected=f"at most max_tokens={most}",
                hint="Shorten the prompt or raise max_tokens.",
            )
        whole = integers_of(generation, num_prompt=num_prompt, seed=seed, vocab_size=self._vocab_size)
        other = fractions_of(generation)
        self._passes[slot] = passes_of(generation, whole, other)
        self._ends[slot] = num_prompt + generation.max_new_tokens
        (self._busy.discard if self._passes[slot].plain_greedy else self._busy.add)(slot)
        self._admissions[slot] = _Admission(whole, other, token_ids)

    def flush(self) -> None:
        """Copy what was admitted since the last time to the device: one copy for each kind of data.

        The device works in order, so steps that were launched before still find what was there.
        """
        if not self._admissions:
            return
        admissions = self._admissions.items()
        whole = self._upload(torch.tensor([[slot, *admission.whole.row()] for slot, admission in admissions]))
        other = [admission.other.row() for _, admission in admissions]
        fraction = self._upload(torch.tensor(other, dtype=torch.float64))
        tokens = self._upload(self._placed_tokens())
        self._admissions.clear()
        self._integers.index_copy_(0, whole[:, 0], whole[:, 1:])
        self._fractions.index_copy_(0, whole[:, 0], fraction)
        self.history.view(-1).index_copy_(0, tokens[0], tokens[1])

    def _placed_tokens(self) -> torch.Tensor:
        """Where in the flat history each admitted token goes, and the tokens: int64 (2, tokens)."""
        width = self.history.shape[1]
        places, tokens = array("q"), array("q")  # far faster than a tensor of lists
        for slot, admission in self._admissions.items():
            places.extend(range(slot * width, slot * width + len(admission.token_ids)))
            tokens.extend(admission.token_ids)
        both = places + tokens
        return (torch.frombuffer(both, dtype=torch.int64) if both else torch.empty(0, dtype=torch.int64)).view(2, -1)

    def _upload(self, data: torch.Tensor) -> torch.Tensor:
        # Pinned memory that torch lets go is not used again before the copy is done.
        return (data.pin_memory() if self._pin else data).to(self._device, non_blocking=True)

    def is_plain(self, host_slots: Iterable[int]) -> bool:
        """Whether all of these slots are plain greedy."""
        return self._busy.isdisjoint(host_slots)

    def passes(self, host_slots: Iterable[int]) -> Passes:
        """What these slots need together."""
        return union({self._passes[slot] for slot in host_slots})

    def integers(self, slots: torch.Tensor) -> Integers[torch.Tensor]:
        """Whole numbers of some slots; `slots` is int64 (rows,) on the device."""
        return Integers(*self._integers.index_select(0, slots).unbind(1))

    def fractions(self, slots: torch.Tensor) -> Fractions[torch.Tensor]:
        """The other numbers of some slots; `slots` is int64 (rows,) on the device."""
        return Fractions(*self._fractions.index_select(0, slots).unbind(1))

    def histories(self, slots: torch.Tensor, host_slots: Iterable[int]) -> torch.Tensor:
        """Tokens of some slots, int64 (rows, columns): as many columns as the longest may come to need.

        Args:
            slots: int64 (rows,) on the device.
            host_slots: The same, on the host.
        """
        needed = max((self._ends[slot] for slot in host_slots), default=0)
        columns = min(-(-needed // _COLUMNS) * _COLUMNS or _COLUMNS, self.history.shape[1])
        return self.history[:, :columns].index_select(0, slots)
