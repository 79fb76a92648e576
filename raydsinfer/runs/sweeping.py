"""Removes what killed writers left in a run directory, when it is too old to be anybody's work."""

from __future__ import annotations

from raydsinfer.runs.files import RunFiles
from raydsinfer.runs.names import INDEX, KEYS, MANIFESTS, PARTS, STARTS, ids_in, is_old, is_temporary


def sweep(files: RunFiles) -> None:
    """Remove files that do not count and were begun more than a day ago.

    That are temporary files, rows and keys without a manifest, and every index but the last two.
    """
    names = {folder: files.sizes(folder) for folder in (PARTS, KEYS, MANIFESTS, STARTS, INDEX)}
    counted = set(ids_in(names[MANIFESTS], ".json"))
    for folder, suffix in ((PARTS, ".parquet"), (KEYS, "")):
        orphans = set(ids_in(names[folder], suffix)) - counted
        names[folder] = {f"{orphan}{suffix}": 0 for orphan in orphans} | {
            name: 0 for name in names[folder] if is_temporary(name)
        }
    indices = ids_in(names.pop(INDEX))
    for folder, there in names.items():
        for name in there:
            if is_old(name) and (is_temporary(name) or folder in (PARTS, KEYS)):
                files.remove(f"{folder}/{name}")
    for index in filter(is_old, indices[:-2]):
        for name in files.sizes(f"{INDEX}/{index}"):
            files.remove(f"{INDEX}/{index}/{name}")
        files.remove(f"{INDEX}/{index}")
