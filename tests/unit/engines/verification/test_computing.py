"""The reference is what transformers says when it has the whole model, in less memory."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from raydsinfer.engines.verification import computing
from raydsinfer.engines.verification.canaries import canary_batches
from raydsinfer.errors import UnsupportedError
from tests.models import VOCAB, write_tiny_model

FAMILIES = ["opt", "gptj", "gpt_neox", "gpt_neo", "llama", "qwen2", "mistral", "gpt2", "bloom"]


def canaries():
    batches = canary_batches(vocab_size=VOCAB, special_ids=(0, 1, 2), max_tokens=100, max_batch_size=4, on_cpu=True)
    return [canary for batch in batches for canary in batch]


def references(directory: Path, dtype: torch.dtype, answers, **options):
    return computing.compute_references(
        directory, canaries(), answers, dtype=dtype, device="cpu", forbidden=[{2}] * len(answers[0]), **options
    )


@torch.inference_mode()
def greedy(model, prompt, number):
    tokens = list(prompt)
    for _ in range(number):
        logits = model(torch.tensor([tokens])).logits[0, -1].float()
        logits[2] = -torch.inf
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_equal_to_transformers_for_every_family(tmp_path: Path, family: str):
    directory = write_tiny_model(family, tmp_path / family, tokenizer=False)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    answers = [greedy(model, canary.token_ids, 3) for canary in canaries()]
    layers = []
    found = references(directory, torch.float32, answers, on_layer=lambda: layers.append(1))
    for canary, answer, reference in zip(canaries(), answers, found, strict=True):
        assert list(reference.token_ids) == answer
        assert [step.best_ids[0] for step in reference.steps] == answer, canary.name
        logits = model(torch.tensor([[*canary.token_ids, *answer]])).logits[0].log_softmax(-1)
        for index, step in enumerate(reference.steps):
            own = logits[len(canary.token_ids) - 1 + index]
            assert torch.allclose(own[list(step.best_ids)], torch.tensor(step.best_logprobs), atol=1e-4)
    assert len(layers) == model.config.num_hidden_layers


@torch.inference_mode()
def test_sixteen_bits_read_once_and_judged_from_float32(tmp_path: Path):
    directory = write_tiny_model("llama", tmp_path / "llama", tokenizer=False)
    answers = [[5, 6, 7]] * len(canaries())
    found = references(directory, torch.bfloat16, answers)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval().float()
    tokens = torch.tensor([[*canaries()[0].token_ids, *answers[0]]])
    own = model(tokens).logits[0, len(canaries()[0].token_ids) - 1].log_softmax(-1)
    step = found[0].steps[0]
    assert torch.allclose(own[list(step.best_ids)], torch.tensor(step.best_logprobs), atol=1e-3)
    exact = references(directory, torch.float32, answers)
    assert step.rounding > 20 * exact[0].steps[0].rounding


def test_no_more_than_a_layer_has_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = write_tiny_model("llama", tmp_path / "llama", tokenizer=False)
    from raydsinfer.engines.verification.replay import Replay

    most = []
    run = Replay.run_layer

    def watched(self, *args):
        most.append([path for path, layer in zip(self.paths, self.layers, strict=True)
                     if not next(layer.parameters()).is_meta])  # fmt: skip
        run(self, *args)

    monkeypatch.setattr(Replay, "run_layer", watched)
    references(directory, torch.bfloat16, [[5, 6, 7]] * len(canaries()))
    assert {len(paths) for paths in most} == {1}
    assert len({paths[0] for paths in most}) == 3


def test_the_whole_model_where_weights_cannot_be_read_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = write_tiny_model("llama", tmp_path / "llama", tokenizer=False)
    answers = [[5, 6, 7]] * len(canaries())
    by_layer = references(directory, torch.bfloat16, answers)

    def refuse(*args, **kwargs):
        raise UnsupportedError(what="x", why="transformers converts it", instead="y")

    monkeypatch.setattr(computing, "LayerwiseModel", refuse)
    whole = references(directory, torch.bfloat16, answers)
    monkeypatch.setattr(computing, "_TIMES_FILES", 1e12)
    with pytest.raises(UnsupportedError, match="GB of host memory"):
        references(directory, torch.bfloat16, answers)
    monkeypatch.undo()
    with pytest.raises(UnsupportedError, match="transformers cannot compute it"):
        references(tmp_path / "none", torch.bfloat16, answers)
    for one, other in zip(by_layer, whole, strict=True):
        for step, also in zip(one.steps, other.steps, strict=True):
            assert step.best_ids == also.best_ids
            assert step.best_logprobs == pytest.approx(also.best_logprobs, abs=1e-4)
