"""Which pages each slot's sequence has: kept on the host, mirrored on the device."""

from __future__ import annotations

import numpy as np
import torch

from raydsinfer.engines.continuous.plan import StepPlan


class PageTables:
    """A row of pages for each slot, and one for rows of padding, which is the last.

    Args:
        num_slots: Slots that sequences take.
        pages_per_slot: Pages of the longest sequence.
        padding_page: What an empty place holds.
        device: Where the mirror lies.
    """

    def __init__(self, *, num_slots: int, pages_per_slot: int, padding_page: int, device: str) -> None:
        self.host = np.full((num_slots + 1, pages_per_slot), padding_page, dtype=np.int32)
        self.device = torch.from_numpy(self.host).to(device, copy=True)
        self._filled = [0] * num_slots

    def update(self, plan: StepPlan) -> None:
        """Take over the pages of a step's sequences, and copy the rows of those that have new ones."""
        admitted, changed = set(plan.admitted), []
        for chunk in plan.chunks:
            slot, pages = chunk.slot, chunk.pages
            if chunk.sequence in admitted:
                self._filled[slot] = 0
            filled = self._filled[slot]
            if filled < len(pages):
                self.host[slot, filled : len(pages)] = pages[filled:]
                self._filled[slot] = len(pages)
                changed.append(slot)
        if changed:
            rows = np.array(changed)
            self.device.index_copy_(0, upload(rows, self.device.device), upload(self.host[rows], self.device.device))


def upload(array: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """A copy of an array on the device. The host does not wait for it, and may change the array at once."""
    device = torch.device(device)
    if device.type == "cpu":
        return torch.from_numpy(array.copy())
    # The pinned memory comes from torch's own cache, which gives it out again only once the copy is done.
    return torch.from_numpy(array).pin_memory().to(device, non_blocking=True)
