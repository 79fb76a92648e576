"""A run directory: jobs begin in it, batches of answered rows are committed to it, and found again."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import pyarrow as pa

from raydsinfer.config import GenerationConfig
from raydsinfer.errors import RunDirectoryError
from raydsinfer.rows.keys import RunIdentity, settings_digest
from raydsinfer.runs.building import build, newest_of_all, read_manifests
from raydsinfer.runs.entries import entries_of
from raydsinfer.runs.files import RunFiles
from raydsinfer.runs.index import RunIndex
from raydsinfer.runs.jobs import read_ends, read_starts
from raydsinfer.runs.names import HEADER, end_file, keys_file, manifest_file, new_id, part_file, start_file
from raydsinfer.runs.opening import check_header, open_directory, program, readable
from raydsinfer.runs.parts import check_stored_names, failed_rows, num_tokens, part_bytes
from raydsinfer.runs.records import End, Manifest, Start, checksum, written
from raydsinfer.runs.status import RunStatus, status_of
from raydsinfer.runs.sweeping import sweep


class RunStore:
    """Answers of a run, kept row by row in a directory. Picklable and small; several processes may write at once.

    Begin in the driver, then send it to those who commit: it remembers for which job. One that did not begin
    commits for the job that started last.

    Args:
        run_dir: Local directory or URL that fsspec knows. Every node has to reach it.

    Raises:
        RunDirectoryError: No file system for such URLs is installed.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self._files = RunFiles(run_dir)
        self._settings = self._start = ""

    @property
    def shown(self) -> str:
        """The directory without secrets, for messages."""
        return self._files.shown

    def begin(
        self,
        identity: RunIdentity,
        *,
        num_rows: int | None,
        resume: bool,
        generation: GenerationConfig | None = None,
    ) -> None:
        """Start a job: make the directory, or check the one that is there; note what the job is.

        Rows of other models and settings may be in it, too: they have other keys.

        Args:
            identity: What rows are answered with.
            num_rows: Rows of the job, if it knows.
            resume: Whether there may be a run already.
            generation: Settings of the call.

        Raises:
            RunDirectoryError: There is a run and `resume` is False, or something that is no run, or one of a newer
                version; or nothing can be written there.
        """
        generation = generation or GenerationConfig()
        open_directory(self._files, identity, resume=resume)
        self._settings = settings_digest(identity, generation).hex()
        self._start = new_id()
        start = Start(
            settings=self._settings,
            began_at=time.time(),
            num_rows=num_rows,
            identity=readable(identity),
            generation=generation.model_dump(exclude_unset=True),
            created_by=program(),
        )
        self._files.put(start_file(self._start), written(start))
        sweep(self._files)

    def build_index(self, *, retry_failed: bool = False) -> RunIndex:
        """An index of the rows that are committed now.

        Args:
            retry_failed: Whether it should not find rows that failed.

        Raises:
            RunDirectoryError: Keys are not as they were written, or nothing can be.
        """
        name = newest_of_all(self._files)
        if name is None:
            manifests = read_manifests(self._files)
            name = build(self._files, manifests) if manifests else None
        return RunIndex(self._files, name, retry_failed=retry_failed)

    def commit(
        self, keys: Sequence[bytes], table: pa.Table, *, seconds: float, num_restarts: int, num_retried: int = 0
    ) -> None:
        """Keep answered rows. When this returns they count, whatever dies then; before, none of them does.

        Args:
            keys: A key a row.
            table: The rows: output columns and kept ones. A row with an ``error`` is kept as failed.
            seconds: How long the gang was at work since its last commit.
            num_restarts: Restarts of the gang since its last commit.
            num_retried: Rows among them that had failed in an earlier part.

        Raises:
            InvalidSettingError: A column has the name that the keys have.
            RunDirectoryError: They cannot be written.
        """
        if not len(table):
            return
        check_stored_names(table.column_names)
        failed, part = failed_rows(table), new_id()
        entries = entries_of(keys, failed).tobytes()
        rows, ended_at = self._packed(keys, table), time.time()
        manifest = Manifest(
            settings=self._settings_of_job(),
            num_rows=len(table),
            num_errors=int(failed.sum()),
            num_retried=num_retried,
            num_prompt_tokens=num_tokens(table, "num_prompt_tokens"),
            num_output_tokens=num_tokens(table, "num_output_tokens"),
            part_bytes=len(rows),
            part_sum=checksum(rows),
            keys_bytes=len(entries),
            keys_sum=checksum(entries),
            began_at=ended_at - seconds,
            ended_at=ended_at,
            num_restarts=num_restarts,
        )
        self._files.put(part_file(part), rows)
        self._files.put(keys_file(part), entries)
        self._files.put(manifest_file(part), written(manifest))  # last: without it the others are nothing

    def finish(self, *, num_rows: int, num_errors: int) -> None:
        """Note that the job has answered all its rows, those included that were there before.

        Args:
            num_rows: How many.
            num_errors: Those among them that failed.

        Raises:
            RunDirectoryError: It cannot be written.
        """
        end = End(ended_at=time.time(), num_rows=num_rows, num_errors=num_errors)
        self._files.put(end_file(self._start), written(end))

    def status(self) -> RunStatus:
        """How far the run is.

        Raises:
            RunDirectoryError: It is no run directory, or of a newer version, or no job has started in it.
        """
        if check_header(self._files) is None:
            raise RunDirectoryError(path=self.shown, reason=f"is no run directory (no {HEADER})", hint="Check it.")
        starts = read_starts(self._files)
        if not starts:
            raise RunDirectoryError(path=self.shown, reason="no job has started in it", hint="Start one.")
        return status_of(starts, read_ends(self._files), read_manifests(self._files))

    def parts_of_last_settings(self) -> set[str]:
        """Ids of the parts that were written under the settings of the last job; of all, if none has started."""
        starts = read_starts(self._files)
        manifests = read_manifests(self._files)
        wanted = starts[max(starts)].settings if starts else None
        return {part for part, manifest in manifests.items() if wanted in (None, manifest.settings)}

    def _settings_of_job(self) -> str:
        if not self._settings:  # not the store that began: the job that started last is meant
            starts = read_starts(self._files)
            self._settings = starts[max(starts)].settings if starts else ""
        return self._settings

    def _packed(self, keys: Sequence[bytes], table: pa.Table) -> bytes:
        try:
            return part_bytes(keys, table)
        except pa.ArrowException as error:
            raise RunDirectoryError(
                path=self.shown,
                reason=f"rows cannot be kept as Parquet ({error})",
                hint="Leave out the column from those that are kept, or change its type.",
            ) from error
