"""Versions that the tests ran with, together: those of constraints.txt for the newest Python (a test compares)."""

from __future__ import annotations

TESTED = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "deepspeed": "0.19.8",
    "ray": "2.60.0",
    "accelerate": "1.15.0",
    "safetensors": "0.8.0",
    "huggingface-hub": "2.4.0",
    "tokenizers": "0.23.3",
    "numpy": "2.4.6",
    "pyarrow": "26.0.1",
    "pydantic": "2.14.3",
}
