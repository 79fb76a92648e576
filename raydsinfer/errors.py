"""Every exception that raydsinfer raises, one class per party who has to act.

    RaydsinferError
    ├── ConfigurationError          the caller: a setting is wrong
    │   ├── UnknownSettingError     a name that does not exist (nearest right one given)
    │   ├── InvalidSettingError     a value out of range or of the wrong type
    │   ├── UnsupportedError        a known combination that cannot work, or not yet
    │   └── GoldenFileError         a golden file is unreadable, or of another model or version
    ├── DataError                   the caller: the data set does not fit the call
    │   ├── MissingColumnError
    │   ├── InputError              rows cannot be read from where they should come
    │   ├── RowFailedError          a row failed and the call said that none may
    │   └── ErrorRateError          more rows failed than the call allows
    ├── RowError                    one row is bad; becomes that row's `error`, never raised to a user
    ├── OutputError                 the caller: the result cannot be written where it was asked for
    ├── RunDirectoryError           the caller: a run cannot be kept in, or continued from, that directory
    ├── CheckpointError             whoever made the model directory
    │   ├── CheckpointNotFoundError
    │   ├── CorruptCheckpointError  truncated, missing or unreadable files
    │   └── WeightsMismatchError    tensors that nothing took, or parameters never filled
    ├── ClusterCapacityError        whoever runs the cluster: the gang cannot be placed
    ├── WorkerGroupError            one or more ranks failed (rank → cause)
    ├── VerificationError           what a gang writes is not what plain transformers writes
    ├── RestartsExhaustedError      a gang was started again as often as it may be (what happened each time)
    ├── RankDiedError               a cause: the process of a rank ended
    ├── RankTimeoutError            a cause: a rank did not answer in time
    ├── NodeDiedError               a node's result: the process or the whole node ended
    ├── NodeTimeoutError            a node's result: it was not done in time
    └── EngineError                 DeepSpeed, transformers or torch failed on a rank
        └── KernelBuildError        DeepSpeed's kernels cannot be built on its node

Fields are typed, text is made in `__str__`, and every class survives pickling (Ray moves exceptions
between processes).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_SHOWN_STACKS = 8  # of ranks that did not fail themselves
_SHOWN_CHARS = 200  # of a value in a message: whole for a setting, enough to find it again for data


def _rebuild(cls: type[RaydsinferError], args: tuple[Any, ...], state: dict[str, Any]) -> RaydsinferError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class RaydsinferError(Exception):
    """Base class. Fields are keyword arguments of the subclasses, which are dataclasses."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(RaydsinferError):
    """A setting is wrong: nothing was started."""


@dataclass(kw_only=True, eq=False)
class UnknownSettingError(ConfigurationError):
    """A setting that does not exist.

    Args:
        name: What was given.
        known: Names that exist where `name` was looked up.
        where: What was being configured, for example ``EngineConfig``.
        hint: What to do instead, for a name that other libraries have.
    """

    name: str
    known: Collection[str]
    where: str
    hint: str = ""

    def __str__(self) -> str:
        name = self.name[:_SHOWN_CHARS]  # it may come from data
        near = difflib.get_close_matches(name, list(self.known), n=1, cutoff=0.5)
        guess = f" Did you mean {near[0]!r}?" if near and not self.hint else ""
        hint = f" {self.hint}" if self.hint else ""
        return f"{self.where} has no setting {shown(self.name)}.{guess}{hint} It has: {', '.join(sorted(self.known))}."


@dataclass(kw_only=True, eq=False)
class InvalidSettingError(ConfigurationError):
    """A setting exists but the value cannot be used.

    Args:
        name: The setting.
        value: What was given.
        expected: What is allowed, in words.
        hint: The next step, when `expected` does not say it.
    """

    name: str
    value: object
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" {self.hint}" if self.hint else ""
        return f"{self.name}={shown(self.value)} cannot be used: expected {self.expected}.{hint}"


@dataclass(kw_only=True, eq=False)
class UnsupportedError(ConfigurationError):
    """A combination that cannot work, or does not yet.

    Args:
        what: The combination.
        why: The reason.
        instead: What to use.
    """

    what: str
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what} is not supported: {self.why}. {self.instead}"


@dataclass(kw_only=True, eq=False)
class GoldenFileError(ConfigurationError):
    """A golden file cannot be compared with.

    Args:
        path: The file.
        reason: What is wrong with it.
        hint: The next step.
    """

    path: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"golden file {self.path} {self.reason}.{' ' + self.hint if self.hint else ''}"


class DataError(RaydsinferError):
    """The data set does not fit the call."""


@dataclass(kw_only=True, eq=False)
class MissingColumnError(DataError):
    """A column that the call names is not in the data.

    Args:
        missing: Names that were asked for and are absent.
        available: Names that the data has.
        wanted_by: The argument that named them.
    """

    missing: Collection[str]
    available: Collection[str]
    wanted_by: str

    def __str__(self) -> str:
        names = ", ".join(repr(name) for name in self.missing)
        have = ", ".join(repr(name) for name in self.available) or "none"
        noun = "column" if len(self.missing) == 1 else "columns"
        return f"{self.wanted_by} names {noun} {names}, but the data has: {have}."


@dataclass(kw_only=True, eq=False)
class InputError(DataError):
    """Rows cannot be read from where they should come.

    Args:
        path: The file, directory or URL.
        reason: What is wrong.
        hint: The next step.
    """

    path: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.reason}.{' ' + self.hint if self.hint else ''}"


@dataclass(kw_only=True, eq=False)
class RowFailedError(DataError):
    """A row failed, and the job was told to end with the first that does.

    Args:
        key: The row's key, as in a run directory: hexadecimal digits.
        row: What the row asks for, shortened.
        reason: The row's error.
    """

    key: str
    row: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.key} ({self.row}) failed: {self.reason}. With on_error='row' the job would go on."


@dataclass(kw_only=True, eq=False)
class ErrorRateError(DataError):
    """More rows failed than the job was told to bear.

    Args:
        num_rows: Rows that were answered or failed so far.
        num_errors: Those that failed.
        limit: `RecoveryConfig.max_error_rate`.
        example: The error of one of them.
    """

    num_rows: int
    num_errors: int
    limit: float
    example: str

    def __str__(self) -> str:
        share = self.num_errors / max(1, self.num_rows)
        return (
            f"{self.num_errors} of {self.num_rows} rows failed ({share:.1%}), more than max_error_rate={self.limit:g}"
            f" allows. One of them: {self.example}"
        )


@dataclass(kw_only=True, eq=False)
class RowError(RaydsinferError):
    """One row cannot be answered; the others can.

    Args:
        kind: Short machine-readable class (``prompt``, ``length``, ``generation``, ``messages``; ``engine``: the
            engine refused it or failed with it; ``gang``: it took its gang down).
        reason: What is wrong with the row and what would be right.
    """

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


@dataclass(kw_only=True, eq=False)
class OutputError(RaydsinferError):
    """The result cannot be written.

    Args:
        path: Where it should have gone.
        reason: Why it cannot.
        hint: The next step.
    """

    path: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"cannot write {self.path}: {self.reason}.{' ' + self.hint if self.hint else ''}"


@dataclass(kw_only=True, eq=False)
class RunDirectoryError(RaydsinferError):
    """A run cannot be kept in a directory, or not be continued from it.

    Args:
        path: The directory or a file in it.
        reason: What is wrong.
        hint: The next step.
    """

    path: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}.{' ' + self.hint if self.hint else ''}"


@dataclass(kw_only=True, eq=False)
class CheckpointError(RaydsinferError):
    """Something is wrong with the model's files.

    Args:
        path: The directory, file or name.
        reason: What is wrong.
        hint: The next step.
    """

    path: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}.{' ' + self.hint if self.hint else ''}"


class CheckpointNotFoundError(CheckpointError):
    """No model at that path, URL or hub name."""


class CorruptCheckpointError(CheckpointError):
    """A file of the model is missing, truncated or unreadable."""


@dataclass(kw_only=True, eq=False)
class WeightsMismatchError(CheckpointError):
    """Weights and model do not fit: each loaded tensor has to be accounted for.

    Args:
        never_filled: Parameters of the model that no tensor of the checkpoint filled.
        nothing_took: Tensors of the checkpoint that fit no parameter.
        wrong_shape: Parameter name → ``"(have) instead of (want)"``.
        wrong_dtype: Parameter name → dtype in the checkpoint, which a cast does not convert.
    """

    reason: str = "the weights do not fit the model"
    never_filled: Collection[str] = ()
    nothing_took: Collection[str] = ()
    wrong_shape: Mapping[str, str] = field(default_factory=dict)
    wrong_dtype: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [
            ("parameters never filled", self.never_filled),
            ("tensors that nothing took", self.nothing_took),
            ("wrong shape", [f"{name} is {text}" for name, text in self.wrong_shape.items()]),
            ("quantised", [f"{name} is {dtype}" for name, dtype in self.wrong_dtype.items()]),
        ]
        listed = "; ".join(f"{title}: {_shortened(names)}" for title, names in parts if names)
        return f"{self.path}: {self.reason} ({listed}).{' ' + self.hint if self.hint else ''}"


@dataclass(kw_only=True, eq=False)
class ClusterCapacityError(RaydsinferError):
    """The cluster cannot hold the gang, or did not in time.

    Args:
        gang: The worker group's name.
        bundles: Resources that each rank asked for, by rank.
        unplaceable: Ranks whose bundle no node could hold even if it were idle.
        nodes: One line of words a node: what it has and what is free.
        waited_s: Seconds waited before giving up.
        hint: The next step.
    """

    gang: str
    bundles: tuple[Mapping[str, float], ...]
    unplaceable: tuple[int, ...]
    nodes: tuple[str, ...]
    waited_s: float
    hint: str = ""

    def __str__(self) -> str:
        wanted = dict(self.bundles[self.unplaceable[0] if self.unplaceable else 0])
        if self.unplaceable:
            which = _shortened([str(rank) for rank in self.unplaceable])
            why = f"no node can hold the bundle {wanted} of rank {which}"
        else:
            why = (
                f"each bundle fits some node, but {len(self.bundles)} bundles like {wanted} "
                "did not become free together"
            )
        nodes = "\n  ".join(self.nodes) or "none"
        hint = f"\n{self.hint}" if self.hint else ""
        return f"{self.gang}: not placed after {self.waited_s:.0f} s: {why}.\nNodes:\n  {nodes}{hint}"


@dataclass(kw_only=True, eq=False)
class WorkerGroupError(RaydsinferError):
    """One or more ranks of a gang failed.

    Args:
        gang: The worker group's name.
        phase: What it was doing (``start``, ``load``, ``generate``, …).
        causes: World rank → exception, of the ranks that had failed when this was raised.
        stacks: World rank → what its threads were doing, where the gang was stuck; innermost call last.
    """

    gang: str
    phase: str
    causes: Mapping[int, BaseException]
    stacks: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        by_text: dict[str, list[int]] = {}
        for rank, cause in sorted(self.causes.items()):
            by_text.setdefault(f"{type(cause).__name__}: {cause}", []).append(rank)
        lines = [f"  rank {', '.join(map(str, ranks))}: {text}" for text, ranks in by_text.items()]
        # The causes tell their own.
        others = sorted(self.stacks.keys() - self.causes.keys())
        lines += [f"  meanwhile rank {rank}: {_innermost(self.stacks[rank])}" for rank in others[:_SHOWN_STACKS]]
        return f"{self.gang} failed in {self.phase}:\n" + "\n".join(lines)


@dataclass(kw_only=True, eq=False)
class VerificationError(RaydsinferError):
    """What a gang writes is not what plain transformers writes with the same weights. Not tried again: it stays so.

    Args:
        attempts: Each way to run the model that was tried, and what differed there, a line for each canary.
        canaries: Of the last of them all results, `CanaryResult` of the engines.
    """

    attempts: tuple[tuple[str, tuple[str, ...]], ...]
    canaries: tuple[Any, ...] = ()

    def __str__(self) -> str:
        lines = "\n".join(f"  {rung}: {_shortened(list(found), 3, '; ')}" for rung, found in self.attempts)
        return (
            f"the model's text is not right here; compared with plain transformers on the same weights:\n{lines}\n"
            "Nothing was generated. `raydsinfer verify` shows all of it. If one way fails alone, choose another "
            "(kernel_inject, batching); if all fail, suspect the node's memory, GPU or files. verify='off' skips this."
        )


@dataclass(kw_only=True, eq=False)
class RestartsExhaustedError(RaydsinferError):
    """A gang, or all gangs of a job together, failed more often than they may be started again.

    Args:
        gang: The worker group's name.
        limit: How many restarts there are.
        setting: The setting that says so, ``max_restarts`` or ``max_job_restarts``.
        history: The gang's failures, oldest first, a line of words each.
    """

    gang: str
    limit: int
    setting: str
    history: tuple[str, ...]

    def __str__(self) -> str:
        lines = "\n".join(f"  {line}" for line in self.history)
        return (
            f"{self.gang} failed again and was not restarted: RecoveryConfig({self.setting}={self.limit}) is used up"
            " (within restart_window_s)."
            f" Its failures:\n{lines}\nIf they have one cause, see to it; if not, raise the limit."
        )


@dataclass(kw_only=True, eq=False)
class RankDiedError(RaydsinferError):
    """The process of a rank ended; a cause in `WorkerGroupError`.

    Args:
        process: Which process: process id and node.
        reason: What is known of its end.
    """

    process: str
    reason: str

    def __str__(self) -> str:
        return f"{self.process} ended: {self.reason}"


@dataclass(kw_only=True, eq=False)
class RankTimeoutError(RaydsinferError):
    """A rank did not answer in time; a cause in `WorkerGroupError`.

    Args:
        process: Which process: process id and node.
        timeout_s: Seconds that it had.
        what: What it did not do in that time.
        stack: What it was doing when the time was up, as far as that is known.
        hint: The next step.
    """

    process: str
    timeout_s: float
    what: str = "did not answer"
    stack: str = ""
    hint: str = ""

    def __str__(self) -> str:
        was = f" (it was in: {self.stack})" if self.stack else ""
        return f"{self.process} {self.what} within {self.timeout_s:g} s{was}.{' ' + self.hint if self.hint else ''}"


@dataclass(kw_only=True, eq=False)
class NodeDiedError(RaydsinferError):
    """The process on a node, or the whole node, ended before it was done; an error in `NodeResult`.

    Args:
        node: Address of the node.
        node_id: Ray's id of it.
        reason: What is known of the end.
    """

    node: str
    node_id: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node} (id {self.node_id}): {self.reason}. Logs are in Ray's session folder on the node."


@dataclass(kw_only=True, eq=False)
class NodeTimeoutError(RaydsinferError):
    """A node was not done in time; an error in `NodeResult`.

    Args:
        node: Address of the node.
        node_id: Ray's id of it.
        timeout_s: Seconds that it had.
    """

    node: str
    node_id: str
    timeout_s: float

    def __str__(self) -> str:
        return f"node {self.node} (id {self.node_id}) was not done within {self.timeout_s:g} s. Raise the timeout."


@dataclass(kw_only=True, eq=False)
class EngineError(RaydsinferError):
    """DeepSpeed, transformers or torch failed on a rank.

    Args:
        doing: What the engine was doing.
        reason: What came back.
        hint: The next step.
        fatal: Whether the rank can take no more calls, as after an error on the GPU itself.
        out_of_memory: Whether fewer rows at once might do.
    """

    doing: str
    reason: str
    hint: str = ""
    fatal: bool = False
    out_of_memory: bool = False

    def __str__(self) -> str:
        return f"{self.doing}: {self.reason}.{' ' + self.hint if self.hint else ''}"


class KernelBuildError(EngineError):
    """DeepSpeed's kernels cannot be built on a rank's node."""


def summary_of(error: BaseException) -> str:
    """Class and first line of what another library raised; some of them say nothing."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def shown(value: object, limit: int = _SHOWN_CHARS) -> str:
    """A value for a message, cut to a readable length.

    Args:
        value: Anything, data included.
        limit: Characters to show.
    """
    try:
        text = repr(value)
    except Exception:  # a class raises what it likes, an integer may have too many digits, a list be in itself
        text = "…"
    return text if len(text) <= limit else f"{text[:limit]}…"


def _innermost(stacks: str, num_calls: int = 4) -> str:
    """The last calls of the first thread, in one line."""
    calls = stacks.splitlines()[1:] or [stacks]
    end = next((index for index, line in enumerate(calls) if not line.startswith("  ")), len(calls))
    return " > ".join(line.strip() for line in calls[max(0, end - num_calls) : end or 1])


def _shortened(names: Iterable[str], limit: int = 8, separator: str = ", ") -> str:
    listed = sorted(names) if not isinstance(names, list) else names
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return separator.join(listed[:limit]) + more
