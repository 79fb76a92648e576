"""From the way to run a model that was asked for to one that is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raydsinfer.engines.base import EngineSpec
from raydsinfer.engines.verification.ladder import Rung, next_rung
from raydsinfer.errors import ConfigurationError, GoldenFileError, KernelBuildError, VerificationError, WorkerGroupError

IMPOSSIBLE = "not possible: "
"""How a line of `Descent.attempts` begins of a way that could not be tried."""


class Descent:
    """The ways to run a model that were tried, and the one that is tried now. Each needs new processes.

    Args:
        spec: What was asked for.
        num_ranks: Ranks of the gang.

    Attributes:
        spec: What is tried now, or was found right.
        attempts: Each way that is not right, and what differed there.
    """

    def __init__(self, spec: EngineSpec, num_ranks: int) -> None:
        self.spec = spec
        self.attempts: tuple[tuple[str, tuple[str, ...]], ...] = ()
        self._num_ranks = num_ranks
        self._wanted_copy = spec.config.save_mp_checkpoint_path is not None
        self._rung: Rung | None = None  # None: as it was asked for
        self._unbuilt: WorkerGroupError | None = None
        self._verify = spec.config.verify

    def goes_on(self, error: WorkerGroupError) -> bool:
        """Take the next way, if it was the gate that ended a start, or kernels that ``engine="auto"`` cannot have.

        Args:
            error: How the start ended.

        Returns:
            Whether there is another way to try now; if not, it ended for another reason.

        Raises:
            VerificationError: No way is right, or the first is not and no other was wanted.
            WorkerGroupError: The kernels cannot be built, and the model runs in no other way.
        """
        wrong = next((c for c in error.causes.values() if isinstance(c, VerificationError)), None)
        if wrong is not None:
            self._rung = wrong.attempts[-1][0]  # type: ignore[assignment]
            self.attempts += wrong.attempts
        elif self._rung is not None and (why := _why_impossible(error)):
            self.attempts += ((self._rung, (IMPOSSIBLE + why,)),)
        elif self._chose_kernels and (why := _why_unbuilt(error)):
            self._rung, self._unbuilt = "kernel injection", error
            # A gang with kernels may have been right before this one: that says nothing of other ways.
            self.spec = self._with({"verify": self._verify})
            self.attempts += ((self._rung, (IMPOSSIBLE + why,)),)
        else:
            return False
        assert self._rung is not None  # noqa: S101
        config = self.spec.config
        found = None if config.strict and wrong is not None else next_rung(self._rung, config, self._num_ranks)
        was_wrong = any(not line.startswith(IMPOSSIBLE) for _, lines in self.attempts for line in lines)
        if found is None and self._unbuilt is not None and not was_wrong:
            raise self._unbuilt
        if found is None:
            canaries = () if wrong is None else wrong.canaries
            raise VerificationError(attempts=self.attempts, canaries=canaries) from error
        self._rung, config = found
        self.spec = replace(self.spec, config=config)
        return True

    @property
    def _chose_kernels(self) -> bool:
        """Whether it was not the user who wants kernels, if there are any."""
        return self.spec.config.engine == "auto" and not self.spec.config.kernel_inject

    def _with(self, settings: Mapping[str, Any]) -> EngineSpec:
        return replace(self.spec, config=self.spec.config.replaced(settings))

    def arrived(self) -> None:
        """The gang runs and is right: a gang that takes its place after a failure need not be checked again."""
        self._rung = None
        if self.spec.config.verify == "once":
            self.spec = self._with({"verify": "off"})

    @property
    def note(self) -> str:
        """What was not right last and what is tried now, in one line; empty if all is as it was asked for."""
        if not self.attempts:
            return ""
        rung, found = self.attempts[-1]
        line = f"{rung}: {found[0].rstrip('.')}. Next: {self._rung}"
        if rung == "kernel injection" and self._wanted_copy:
            line += ", without save_mp_checkpoint_path, whose weights are for the kernels"
        return line if found[0].startswith(IMPOSSIBLE) else f"the model's text is not right: {line}"


def _why_unbuilt(error: WorkerGroupError) -> str:
    """Why ranks' nodes have no kernels, in one line; empty if the start ended for another reason."""
    reasons = (cause.reason.splitlines() for cause in error.causes.values() if isinstance(cause, KernelBuildError))
    return "; ".join(dict.fromkeys(f"DeepSpeed's kernels cannot be built: {lines[0]}" for lines in reasons if lines))


def _why_impossible(error: WorkerGroupError) -> str:
    """Why a model cannot run in some way; empty if it failed for another reason."""
    causes = [c for c in error.causes.values() if isinstance(c, ConfigurationError)]
    return "" if not causes or isinstance(causes[0], GoldenFileError) else str(causes[0])
