"""Writes a model with random weights: one file a decoder layer, as safetensors or as pickles."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch

Form = Literal["safetensors", "bin"]
_MAX_WRITERS = 16  # each holds one layer in host memory: 2 GB of a 66b model


def write_random_model(
    directory: Path, config: Mapping[str, Any], form: Form = "safetensors", seed: int = 0, *, same_layers: bool = False
) -> None:
    """Write configuration, tokenizer and float16 weights, drawn on a GPU if there is one.

    Args:
        directory: Where to; must not exist.
        config: As `config.json` has it.
        form: Of the weights.
        seed: Of the random numbers: one seed gives the same weights in both forms.
        same_layers: Draw one layer only and write it for each: a model of 132 GB is there in seconds.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    directory.mkdir(parents=True)
    fields = dict(config)
    model_config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    make: Any = AutoModelForCausalLM  # has no annotations
    with torch.device("meta"):
        model = make.from_config(model_config)
    model_config.architectures, model_config.dtype = [type(model).__name__], "float16"
    model_config.save_pretrained(directory)
    write_word_tokenizer(directory, model_config.vocab_size)
    files: dict[str, dict[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():  # a tied name comes once
        files.setdefault(_file_of(name, form), {})[name] = parameter.shape
    drawn = _Drawn(seed, same_layers)
    with ThreadPoolExecutor(min(_MAX_WRITERS, len(files))) as writers:
        list(writers.map(lambda file: _write(directory / file, drawn.state(file, files[file])), files))
    stem = "model.safetensors" if form == "safetensors" else "pytorch_model.bin"
    index = {name: file for file, shapes in files.items() for name in shapes}
    (directory / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _file_of(name: str, form: Form) -> str:
    number = next((part for part in name.split(".") if part.isdigit()), None)
    return f"layer-{int(number):03d}.{form}" if number else f"rest.{form}"


class _Drawn:
    """Random tensors of each file."""

    def __init__(self, seed: int, same_layers: bool) -> None:
        self._seed, self._same_layers = seed, same_layers
        self._layer: list[torch.Tensor] = []
        self._lock = threading.Lock()

    def state(self, file: str, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
        """The tensors of one file."""
        if not self._same_layers or not file.startswith("layer-"):
            return dict(zip(shapes, self._draw(file, shapes), strict=True))
        with self._lock:
            self._layer = self._layer or self._draw(file, shapes)
        return dict(zip(shapes, self._layer, strict=True))

    def _draw(self, file: str, shapes: Mapping[str, torch.Size]) -> list[torch.Tensor]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # By the file's stem: the same in every form.
        generator = torch.Generator(device=device).manual_seed(self._seed + zlib.crc32(Path(file).stem.encode()))
        values = []
        for name, size in shapes.items():
            value = torch.randn(size, generator=generator, device=device, dtype=torch.float16).mul_(0.02)
            values.append((value + 1 if _scales(name) else value).cpu())
        return values


def _scales(name: str) -> bool:
    """Whether a parameter is the weight of a norm: LayerNorm and RMSNorm have about 1 there."""
    return "norm.weight" in name or name.split(".")[-2:-1] in (["ln_1"], ["ln_2"], ["ln_f"])


def _write(path: Path, state: dict[str, torch.Tensor]) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        _write_safetensors(path, state)


def _write_safetensors(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """As safetensors' own function, but one that lets other threads write meanwhile."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, value in state.items():
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in state.values():
            file.write(value.contiguous().view(torch.uint8).numpy().data)


def write_word_tokenizer(directory: Path, vocab_size: int) -> None:
    """A tokenizer whose token 17 is the word "w17": texts of an exact number of tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Special tokens are found inside of words too, so they must not look like the start of one.
    specials = {"<unk>": 0, "<pad>": 1, "</s>": 2}
    words = {f"w{i}": i for i in range(len(specials), vocab_size)}
    backend = Tokenizer(models.WordLevel(specials | words, unk_token="<unk>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make: Any = PreTrainedTokenizerFast
    make(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>").save_pretrained(directory)  # noqa: S106
