"""What changes scores before one is chosen: functions of tensors, one for each of transformers' processors.

Scores are float32 (rows, vocabulary). Histories are int64 (rows, columns): of each row the token at each
position. Lengths, int64 (rows,), say how many of them count; what lies behind may be anything. Each function
leaves rows with neutral settings as they are, to the last bit. Shapes never depend on the tensors' contents.
Meaning after transformers 5.23, `generation/logits_process.py`.
"""

from __future__ import annotations

import torch


def penalise_repetition(
    scores: torch.Tensor, history: torch.Tensor, lengths: torch.Tensor, penalty: torch.Tensor
) -> torch.Tensor:
    """Scores in which each token of the history is less likely (RepetitionPenaltyLogitsProcessor).

    Args:
        scores: float32 (rows, vocabulary).
        history: int64 (rows, columns).
        lengths: int64 (rows,).
        penalty: (rows,); 1 is neutral.
    """
    counts = _columns(history) < lengths[:, None]
    by = penalty.to(scores.dtype)[:, None]
    penalised = torch.where(scores < 0, scores * by, scores / by)
    return torch.where(_marked(scores, history, counts), penalised, scores)


def forbid_repeated_ngrams(
    scores: torch.Tensor, history: torch.Tensor, lengths: torch.Tensor, sizes: torch.Tensor, largest: int
) -> torch.Tensor:
    """Scores without the tokens that would repeat an n-gram of the history (NoRepeatNGramLogitsProcessor).

    Args:
        scores: float32 (rows, vocabulary).
        history: int64 (rows, columns).
        lengths: int64 (rows,).
        sizes: n of each row, int64 (rows,); 0 is neutral.
        largest: The largest of `sizes`, known to the host.
    """
    last, sizes = _columns(history), sizes[:, None]
    # Of each n-gram that ends in a column: whether its first n - 1 tokens are the history's last n - 1.
    matches = (sizes > 0) & (last >= sizes - 1) & (last < lengths[:, None])
    for back in range(1, min(largest, history.shape[1])):
        before = history.roll(back, dims=1)  # what comes round the edge has no n-gram that ends there
        newest = history.gather(1, (lengths - back).clamp(0, history.shape[1] - 1)[:, None])
        matches &= (before == newest) | (sizes <= back)
    return scores.masked_fill(_marked(scores, history, matches), -torch.inf)


def forbid_tokens_(scores: torch.Tensor, token_ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """In place, and given back: scores of some rows without some tokens.

    For MinNewTokensLengthLogitsProcessor, SuppressTokensLogitsProcessor and SuppressTokensAtBeginLogitsProcessor.

    Args:
        scores: (rows, vocabulary), of any floating type.
        token_ids: Different ones, int64.
        rows: bool (rows,).
    """
    columns = scores.index_select(1, token_ids).masked_fill(rows[:, None], -torch.inf)
    return scores.index_copy_(1, token_ids, columns)


def log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Natural logarithm of the tokens' probabilities, float32 (rows,), as the model gives them.

    Args:
        logits: Of the model, before anything changed them: (rows, vocabulary).
        tokens: int64 (rows,).
    """
    scores = logits.to(torch.float32)
    return scores.gather(1, tokens[:, None]).squeeze(1) - scores.logsumexp(1)


def _columns(history: torch.Tensor) -> torch.Tensor:
    return torch.arange(history.shape[1], device=history.device)[None, :]


def _marked(scores: torch.Tensor, history: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """bool (rows, vocabulary): the tokens that the history holds where it is marked."""
    # A column more, for what does not count and for tokens that have an embedding but no score.
    size = scores.shape[1]
    marked = torch.zeros(scores.shape[0], size + 1, dtype=torch.bool, device=scores.device)
    return marked.scatter_(1, history.clamp(max=size).masked_fill(~where, size), True)[:, :size]
