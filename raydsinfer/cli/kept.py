"""Where a command keeps the rows that are done, and what it says when it ends before they all are."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import fsspec

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.errors import InvalidSettingError

Duplicates = Literal["once", "each"]


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """A run that is kept.

    Args:
        run_dir: Directory or URL.
        resume: Whether it may hold rows already.
        retry_failed: Whether rows that failed are computed again.
        duplicates: Whether equal rows are computed once or each.
    """

    run_dir: str
    resume: bool = True
    retry_failed: bool = False
    duplicates: Duplicates = "once"

    @property
    def shown(self) -> str:
        """The directory without secrets."""
        return without_secrets(self.run_dir)

    def arguments(self) -> dict[str, Any]:
        """Arguments of `BatchPredictor.predict`, besides the directory."""
        return {name: value for name, value in asdict(self).items() if name != "run_dir"}

    def how_to_go_on(self) -> str:
        """What to say when the command ended early; empty if nothing was kept."""
        with suppress(Exception):  # the error that ended the command says more than one of a file system
            filesystem, path = fsspec.core.url_to_fs(self.run_dir)
            if filesystem.exists(f"{path.rstrip('/')}/run.json"):
                again = "the same command" if self.resume else "the same command with --resume"
                return f"The rows that were done are in {self.shown}: {again} goes on from there."
        return ""


def kept_run(output: str, *, resume: bool, run_dir: str | None, retry_failed: bool, duplicates: str) -> KeptRun | None:
    """What the flags ask for; None if nothing is to be kept.

    Raises:
        InvalidSettingError: A flag stands without the one that it belongs to.
    """
    if duplicates not in ("once", "each"):
        raise InvalidSettingError(name="--duplicates", value=duplicates, expected="'once' or 'each'")
    if not resume and run_dir is None:
        if retry_failed:
            raise InvalidSettingError(
                name="--retry-failed", value=True, expected="to stand with --resume, or with --run-dir"
            )
        if duplicates == "each":
            raise InvalidSettingError(
                name="--duplicates",
                value=duplicates,
                expected="to stand with --resume, or with --run-dir",
                hint="Where no rows are kept, each is computed.",
            )
        return None
    if run_dir is None and output == "-":
        raise InvalidSettingError(
            name="--resume", value=True, expected="to stand with --run-dir where OUTPUT is standard output"
        )
    return KeptRun(
        run_dir=run_dir if run_dir is not None else f"{output.rstrip('/')}.run",
        resume=resume,
        retry_failed=retry_failed,
        duplicates=duplicates,  # type: ignore[arg-type]  # looked at above
    )
