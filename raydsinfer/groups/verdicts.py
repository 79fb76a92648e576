"""What a failure of a gang means for starting it again: pure."""

from __future__ import annotations

from raydsinfer.errors import CheckpointError, ConfigurationError, RankDiedError, RankTimeoutError, WorkerGroupError

_LONGEST_CAUSE = 200  # characters; a line of the history is for reading, the log has all


class JobIsOver(RuntimeError):
    """A keeper gives no lease: the job that wanted this gang is over."""

    def __str__(self) -> str:
        return "the job that wanted this gang is over"


def can_only_repeat(error: WorkerGroupError) -> bool:
    """Whether a new start would fail in the same way: wrong settings, a wrong model, or no way to a place.

    Whoever lost its placement group to the end of its job, or its keeper, gets no other. A keeper that was slow, or
    a placement group that went while the gang waited for it, is another matter.
    """
    kinds: tuple[type[BaseException], ...] = (ConfigurationError, CheckpointError)
    if error.phase == "placement":
        kinds += (JobIsOver, RankDiedError)  # of this phase the only process is the keeper's
    return any(isinstance(cause, kinds) for cause in error.causes.values())


def is_same_failure(first: WorkerGroupError, second: WorkerGroupError) -> bool:
    """Whether two starts failed alike, with nothing in it that chance could do.

    A process that ended while it loaded was perhaps killed by somebody; what an engine raises it raises again, and
    a process that does not even start lacks something on its node.
    """
    telling = _telling(first)
    return first.phase == second.phase and telling is not None and telling == _telling(second)


def in_short(error: BaseException) -> str:
    """Phase and causes in one line, shortened."""
    if not isinstance(error, WorkerGroupError):
        return _line(error)
    by_text: dict[str, list[int]] = {}
    for rank, cause in sorted(error.causes.items()):
        by_text.setdefault(_line(cause), []).append(rank)
    causes = "; ".join(f"rank {', '.join(map(str, ranks))}: {text}" for text, ranks in by_text.items())
    return f"{error.phase}: {causes}"


def _telling(error: WorkerGroupError) -> set[str] | None:
    causes = error.causes.values()
    if error.phase != "start" and any(isinstance(cause, RankDiedError) for cause in causes):
        return None
    return {_line(cause) for cause in causes}


def _line(error: BaseException) -> str:
    # Without what differs from one rank to the next, and from one moment to the next: process ids and stacks.
    if isinstance(error, RankDiedError):
        text = f"its process ended: {error.reason}"
    elif isinstance(error, RankTimeoutError):
        text = f"it {error.what} within {error.timeout_s:g} s"
    else:
        text = f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_CAUSE else f"{text[:_LONGEST_CAUSE]}..."
