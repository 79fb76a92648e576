"""How far a run is: from what its parts and jobs say of themselves, without reading a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raydsinfer.runs.records import End, Manifest, Start


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What a run directory holds for the settings of the last job that started in it.

    Args:
        num_done: Rows with an answer.
        num_failed: Rows with an error.
        num_left: Rows of the last job that have neither; None if it did not know how many it has. Rows that share
            an answer are stored once, so that some are left until the job is finished.
        num_rows: Rows of the last job; None if it did not know.
        num_prompt_tokens: Of the rows that are stored.
        num_output_tokens: Of the rows that are stored.
        num_seconds: Seconds that gangs worked on them, one beside the other added up.
        num_restarts: Restarts of gangs in all these jobs.
        num_starts: Jobs that were started with these settings.
        num_other_rows: Rows that are stored for other settings.
        num_bytes: Size of all stored rows.
        finished: Whether the last job answered all its rows.
        began_at: When the last job started, seconds since the epoch.
        last_at: When the last row was stored or the job ended; None: neither has happened.
    """

    num_done: int
    num_failed: int
    num_left: int | None
    num_rows: int | None
    num_prompt_tokens: int
    num_output_tokens: int
    num_seconds: float
    num_restarts: int
    num_starts: int
    num_other_rows: int
    num_bytes: int
    finished: bool
    began_at: float
    last_at: float | None


def status_of(starts: Mapping[str, Start], ends: Mapping[str, End], manifests: Mapping[str, Manifest]) -> RunStatus:
    """Add up.

    Args:
        starts: By id, at least one.
        ends: By the id of their start.
        manifests: By id.
    """
    last = max(starts)
    start, end = starts[last], ends.get(last)
    own = [manifest for manifest in manifests.values() if manifest.settings == start.settings]
    num_failed = sum(manifest.num_errors - manifest.num_retried for manifest in own)
    num_done = sum(manifest.num_rows - manifest.num_errors for manifest in own)
    num_left = None if start.num_rows is None else max(0, start.num_rows - num_done - num_failed)
    if end is not None:  # it counted them
        num_done, num_failed, num_left = end.num_rows - end.num_errors, end.num_errors, 0
    return RunStatus(
        num_done=num_done,
        num_failed=max(0, num_failed),
        num_left=num_left,
        num_rows=start.num_rows if end is None else end.num_rows,
        num_prompt_tokens=sum(manifest.num_prompt_tokens for manifest in own),
        num_output_tokens=sum(manifest.num_output_tokens for manifest in own),
        num_seconds=sum(manifest.ended_at - manifest.began_at for manifest in own),
        num_restarts=sum(manifest.num_restarts for manifest in own),
        num_starts=sum(other.settings == start.settings for other in starts.values()),
        num_other_rows=sum(manifest.num_rows for manifest in manifests.values()) - sum(m.num_rows for m in own),
        num_bytes=sum(manifest.part_bytes for manifest in manifests.values()),
        finished=end is not None,
        began_at=start.began_at,
        last_at=max([manifest.ended_at for manifest in own] + ([end.ended_at] if end else []), default=None),
    )
