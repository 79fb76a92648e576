"""OPT: DeepSpeed's policy fits it as it is."""

from __future__ import annotations

from raydsinfer.engines.deepspeed_kernels.adapter import Adapter


class OPT(Adapter):
    """Pre-norm layers, learned positions, ReLU or GELU."""
