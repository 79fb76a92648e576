"""On which device the benches run."""

from __future__ import annotations

from raydsinfer.errors import InvalidSettingError


def chosen_device(device: str, num_ranks: int) -> str:
    """``cuda`` or ``cpu``: what was asked for, else a GPU if there is one.

    Raises:
        InvalidSettingError: There is no such device, or not for so many ranks.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    chosen = device or ("cuda" if num_gpus else "cpu")
    if chosen not in ("cpu", "cuda"):
        raise InvalidSettingError(name="--device", value=device, expected="cuda or cpu")
    if chosen == "cuda" and num_ranks > num_gpus:
        hint = "Use --device cpu to see that it works."
        raise InvalidSettingError(
            name="--tp", value=num_ranks, expected=f"at most the GPUs here, {num_gpus}", hint=hint
        )
    return chosen
