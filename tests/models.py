"""Tiny models with random weights, one of each family, and what plain transformers answers with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCAB = 259  # 256 bytes and three special tokens

_SIZES: dict[str, dict[str, Any]] = {
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 64,
        "dropout": 0.0,
        "activation_function": "relu",
    },
    "gptj": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256, "rotary_dim": 8},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4},
    "gpt_neo": {
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
    },
    "llama": {
        "hidden_size": 128,  # DeepSpeed's kernels cannot rotate heads of less than 32
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "xglm": {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4},
}
# BLOOM's norm behind the embeddings undoes a factor there, and its output weights are the embeddings: with small
# layers the likeliest token is always the last one, whatever attention does.
_MORE = {"bloom": 8.0}
_SIZES["qwen2"] = _SIZES["mistral"] = {**_SIZES["llama"], "hidden_size": 64, "intermediate_size": 128}


def tiny_model(family: str, *, scale: float = 4.0, spread: float = 0.0, **changes: Any) -> Any:
    """A transformers model of `family` with random weights; see `write_tiny_model`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {
        "vocab_size": VOCAB,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(family, **{**common, **_SIZES.get(family, {}), **changes})
    more = _MORE.get(family, 1.0) if config.tie_word_embeddings else 1.0
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale * more)
            elif spread:
                parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model


def write_tiny_model(
    family: str,
    directory: Path,
    *,
    tokenizer: bool = True,
    safe: bool = True,
    scale: float = 4.0,
    spread: float = 0.0,
    **changes: Any,
) -> Path:
    """Write a model of `family` with random weights, and a byte-level tokenizer; returns `directory`.

    Args:
        family: `model_type` of transformers.
        directory: Where to; made if need be.
        tokenizer: Whether to write a tokenizer too.
        safe: Safetensors, or a pickled `.bin`.
        scale: Factor on matrices, so that greedy paths vary.
        spread: Standard deviation of what is added to biases and norms, which are all 0 or 1 otherwise.
        changes: Fields of the model's configuration.
    """
    import torch

    model = tiny_model(family, scale=scale, spread=spread, **changes)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    if not safe:
        state = {k: v.clone() for k, v in model.state_dict().items()}
        torch.save(state, directory / "pytorch_model.bin")
        (directory / "model.safetensors").unlink()
    if tokenizer:
        write_tokenizer(directory)
    return directory


def write_rounded(source: Path, target: Path) -> Path:
    """Write a model like another in float32, with the matrices of its decoder layers rounded to 255 steps a row.

    What `dtype="int8"` makes of a model, by other code than ours; returns `target`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name not in ("lm_head", "embed_out"):
            weight = module.weight.data
            scale = weight.abs().amax(dim=1, keepdim=True) / 127
            module.weight.data = torch.round(weight / scale) * scale
    model.save_pretrained(target)
    return target


def write_tokenizer(directory: Path) -> None:
    """A tokenizer with one token a byte, plus pad, bos, eos, and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<pad>", "<s>", "</s>"]
    vocab = {token: index for index, token in enumerate(specials + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
    )
    hf.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    hf.save_pretrained(directory)


def prompts(lengths: list[int], seed: int = 1) -> list[list[int]]:
    """Random token ids, one list a length."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 259, (n,), generator=generator).tolist() for n in lengths]


def plain_greedy(directory: Path, requests: list[list[int]], max_new_tokens: int, **settings: Any) -> list[list[int]]:
    """Greedy tokens of plain transformers in float32, one request at a time, end of sequence included."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    answers = []
    for request in requests:
        ids = torch.tensor([request])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False, **settings
        )
        answers.append(out[0, len(request) :].tolist())
    assert_telling(answers, requests)
    return answers


def assert_telling(answers: list[list[int]], requests: list[list[int]]) -> None:
    """That a model does more than repeat the last token, which it might do with any attention; of two answers or more.

    Args:
        answers: New tokens of each request.
        requests: Prompts.
    """
    pairs = list(zip(answers, requests, strict=True))
    assert len(pairs) < 2 or any(set(answer) - set(request[-1:]) for answer, request in pairs), answers
