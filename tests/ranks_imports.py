"""Imports what a rank needs, on a CPU: for the process that ranks of tests are forked from, and for no other."""

from __future__ import annotations

import gc
import importlib
import os

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it when it is imported

from raydsinfer.engines.families import FAMILIES

OURS = (
    "continuous.build",
    "deepspeed_engine",
    "deepspeed_fused_rules",
    "deepspeed_int8",
    "deepspeed_kernels.adapters",
    "deepspeed_kernels.cpu_ops",
    "deepspeed_rules",
)
THEIRS = (
    "deepspeed.module_inject.replace_module",
    "deepspeed.ops.op_builder.all_ops",
    "pytest",
    "ray.train",
    "setuptools.command.build_ext",  # DeepSpeed looks for libraries by it
    "torch.testing._internal.distributed.fake_pg",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.quantizers.auto",
    "transformers.tokenization_utils_tokenizers",
    *(f"transformers.models.{family}.modeling_{family}" for family in (*FAMILIES, "bert", "clip")),
)

for name in (*THEIRS, *(f"raydsinfer.engines.{name}" for name in OURS)):
    importlib.import_module(name)

gc.freeze()  # no collection of a rank looks at these again
