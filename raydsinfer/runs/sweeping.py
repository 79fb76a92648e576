"""Removes what killed writers left in a run directory, when it is too old to be anybody's work."""

from __future__ import annotations

from datetime import timedelta

from raydsinfer.runs.files import RunFiles
from raydsinfer.runs.names import INDEX, KEYS, MANIFESTS, PARTS, STARTS, ids_in, is_old, is_temporary

_INDEX_KEPT = timedelta(days=30)


def sweep(files: RunFiles) -> None:
    """Remove files that do not count and were begun more than a day ago: temporary ones, rows and keys without a
    manifest. And every index that is older than a month, but for the last two.
    """
    names = {folder: files.sizes(folder) for folder in (PARTS, KEYS, MANIFESTS, STARTS, INDEX)}
    counted = set(ids_in(names[MANIFESTS], ".json"))
    for folder, suffix in ((PARTS, ".parquet"), (KEYS, "")):
        orphans = set(ids_in(names[folder], suffix)) - counted
        names[folder] = {f"{orphan}{suffix}": 0 for orphan in orphans} | {
            name: 0 for name in names[folder] if is_temporary(name)
        }
    indices = ids_in(names.pop(INDEX))  # a job opens its own when a batch first asks, and may run for weeks
    for folder, there in names.items():
        for name in there:
            if is_old(name) and (is_temporary(name) or folder in (PARTS, KEYS)):
                files.remove(f"{folder}/{name}")
    for index in (index for index in indices[:-2] if is_old(index, kept=_INDEX_KEPT)):
        for name in files.sizes(f"{INDEX}/{index}"):
            files.remove(f"{INDEX}/{index}/{name}")
        files.remove(f"{INDEX}/{index}")
