"""Models on the Hugging Face hub, by way of its own library and cache."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock

from raydsinfer.checkpoints.model_files import is_weights, wanted_files
from raydsinfer.checkpoints.sizes import OnProgress
from raydsinfer.checkpoints.sources.download import Progress, require_space, writing_to
from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError, summary_of


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model on the hub. The token is the one that the hub's library finds (``HF_TOKEN``).

    Args:
        name: ``owner/name``.
        revision: Branch, tag or commit; None means the main branch.
        cache: Directory of the hub's cache; None means the library's own.
        weights: Whether its weights are wanted too.
    """

    name: str
    revision: str | None = None
    cache: Path | None = None
    weights: bool = True

    def into_cache(self, locks: Path, on_progress: OnProgress | None = None) -> tuple[Path, int, int]:
        """Bring what is missing into the hub's cache; what is there will do when the hub cannot be reached.

        Args:
            locks: Directory for the lock that one process of this node holds.
            on_progress: Told of bytes there and in all.

        Returns:
            The directory, bytes of the model, and bytes that had to be fetched.
        """
        try:
            commit, listed = self.listed()
        except CheckpointError as error:
            return self._from_cache(error)
        if not self.missing(listed, commit):
            return self._download(listed, None), sum(size for size, _ in listed.values()), 0
        lock = locks / f"hub-{hashlib.sha256(self.name.encode()).hexdigest()[:16]}.lock"
        with writing_to(locks, lambda: 0):
            locks.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):
                missing = self.missing(listed, commit)  # perhaps not any more
                num_missing = sum(listed[name][0] for name in missing)
                cache = self._cache()
                cache.mkdir(parents=True, exist_ok=True)
                require_space(num_missing, cache)
                progress = Progress(sum(size for size, _ in listed.values()), on_progress)
                progress.add(progress.total - num_missing)
                directory = self._download(listed, progress)
                progress.add(progress.total - progress.num_bytes)
        return directory, progress.total, num_missing

    def fill(self, directory: Path, on_progress: OnProgress | None = None) -> int:
        """Bring the files into a directory, not into the cache; returns bytes that had to be fetched."""
        listed = self.listing()
        absent = {name: size for name, (size, _) in listed.items() if not (directory / name).exists()}
        require_space(sum(absent.values()), directory)
        progress = Progress(sum(size for size, _ in listed.values()), on_progress)
        progress.add(progress.total - sum(absent.values()))
        with writing_to(directory, lambda: progress.total - progress.num_bytes):
            self._download(listed, progress, directory)
            progress.add(progress.total - progress.num_bytes)
        return sum(absent.values())

    def listing(self) -> dict[str, tuple[int, str]]:
        """Wanted file name → bytes and id of its content."""
        return self.listed()[1]

    def commit(self) -> str:
        """The commit that the revision is; the one in the cache if the hub cannot be reached.

        Raises:
            CheckpointError: There is no such model, or it is neither in the cache nor can the hub be asked.
        """
        try:
            commit, listed = self.listed()
        except CheckpointError as error:
            return replace(self, weights=False)._from_cache(error)[0].name  # the cache has a directory for each commit
        return commit or hashlib.sha256(repr(sorted(listed.items())).encode()).hexdigest()

    def listed(self) -> tuple[str | None, dict[str, tuple[int, str]]]:
        """The commit that the revision is now, and its files as `listing` gives them.

        Raises:
            CheckpointError: The hub cannot be asked, or has no such model.
        """
        from huggingface_hub import HfApi

        try:
            info = HfApi().model_info(self.name, revision=self.revision, files_metadata=True)
        except Exception as error:  # the library's own, and those of its HTTP client
            raise self._explained(error) from error
        files = {
            file.rfilename: (file.size or 0, (file.lfs and file.lfs.sha256) or file.blob_id or str(info.sha))
            for file in info.siblings or []
        }
        return info.sha, {name: files[name] for name in wanted_files(files, weights=self.weights)}

    def missing(self, listed: Mapping[str, tuple[int, str]], commit: str | None) -> list[str]:
        """Names of files that are not in this node's cache; the hub is not asked.

        Args:
            listed: As `listed` gives them.
            commit: As `listed` gives it.
        """
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.file_download import repo_folder_name

        # Asked by commit: the cache knows of a branch only where it was when it was last fetched.
        revision, cache = commit or self.revision, self._cache()
        blobs = cache / repo_folder_name(repo_id=self.name, repo_type="model") / "blobs"  # of all commits
        return [
            name
            for name, (_, content) in listed.items()
            if not isinstance(try_to_load_from_cache(self.name, name, cache_dir=cache, revision=revision), str)
            and not (blobs / content).exists()
        ]

    def _cache(self) -> Path:
        from huggingface_hub import constants

        return self.cache or Path(constants.HF_HUB_CACHE)

    def _download(self, listed: Mapping[str, object], progress: Progress | None, directory: Path | None = None) -> Path:
        from huggingface_hub import snapshot_download

        try:
            found = snapshot_download(
                self.name,
                revision=self.revision,
                cache_dir=self._cache(),
                local_dir=directory,
                allow_patterns=[glob.escape(name) for name in listed],
                tqdm_class=_bar_class(progress) if progress else None,
            )
        except OSError as error:
            if error.errno is not None and not hasattr(error, "response"):  # the disk's
                raise
            raise self._explained(error) from error
        except Exception as error:
            raise self._explained(error) from error
        return Path(found)

    def _from_cache(self, why_not_the_hub: CheckpointError) -> tuple[Path, int, int]:
        from huggingface_hub import snapshot_download

        try:
            found = snapshot_download(
                self.name,
                revision=self.revision,
                cache_dir=self._cache(),
                local_files_only=True,
                allow_patterns=["config.json"],
            )
        except Exception:  # not there, or the name is none
            raise why_not_the_hub from why_not_the_hub.__cause__
        names = [path.relative_to(found).as_posix() for path in Path(found).rglob("*") if path.is_file()]
        wanted = wanted_files(names, weights=self.weights)
        if self.weights and not any(is_weights(name) for name in wanted):
            raise CheckpointNotFoundError(
                path=self.name,
                reason=f"only its small files are in the hub cache ({why_not_the_hub.reason})",
                hint="Fetch the model while the hub can be reached.",
            )
        return Path(found), sum((Path(found) / name).stat().st_size for name in wanted), 0

    def _explained(self, error: Exception) -> CheckpointError:
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )

        said = without_secrets(summary_of(error))
        if isinstance(error, (HfHubHTTPError, HFValidationError)):
            gated = isinstance(error, GatedRepoError)
            return CheckpointNotFoundError(
                path=self.name,
                reason=f"the hub does not give {'it to everyone' if gated else 'it'} ({said})",
                hint="Check the name and the revision; a gated or private model needs HF_TOKEN on every node.",
            )
        if isinstance(error, LocalEntryNotFoundError):  # how a download fails; its cause says why
            return CheckpointError(
                path=self.name,
                reason=f"could not be fetched from the hub ({without_secrets(summary_of(error.__cause__ or error))})",
                hint="Check that the nodes reach the hub, and fetch again.",
            )
        offline = isinstance(error, OfflineModeIsEnabled)
        return CheckpointNotFoundError(
            path=self.name,
            reason="not a directory here, not in the hub cache, and the hub "
            + ("is not asked (HF_HUB_OFFLINE)" if offline else f"cannot be reached ({said})"),
            hint="Check the spelling, or fetch the model first and give its directory.",
        )


def _bar_class(progress: Progress) -> Any:
    """What the hub's library calls a progress bar: it draws nothing and counts bytes."""
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    before, lock = progress.num_bytes, Lock()

    class Bar(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts, self._num_bytes = kwargs.get("unit") == "B", kwargs.get("initial", 0)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            # There may be two bars, of bytes received and of bytes written: the one that is ahead counts.
            with lock:
                self._num_bytes += n or 0
                ahead = before + int(self._num_bytes) - progress.num_bytes
                if self._counts and 0 < ahead <= progress.total - progress.num_bytes:
                    progress.add(ahead)

    return Bar
