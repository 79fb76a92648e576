"""Files in a place that fsspec can read: what is there, and their bytes."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from raydsinfer.checkpoints.model_files import CHECKSUMS_FILE, INDICES, named_in, wanted_files
from raydsinfer.checkpoints.sources.checksums import Checksum, checksum_in, sums_in
from raydsinfer.checkpoints.sources.remote_errors import explained, not_openable, patiently
from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.checkpoints.sources.web_directory import NUM_THREADS, WebDirectory, http_options
from raydsinfer.checkpoints.weights.ranks_index import RANKS_INDEX
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError

# What fsspec's file systems say of a file that changes when its content does.
_VERSION_KEYS = (
    *("ETag", "etag", "generation", "VersionId", "LastModified", "last_modified", "Last-Modified", "mtime", "updated"),
    *("sha256", "md5", "md5Hash", "Content-MD5", "crc32c", "Digest"),
)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file at its source.

    Args:
        name: Relative to the model's directory.
        key: What the file system calls it; may hold secrets.
        num_bytes: Its size; None if the server does not say.
        stamp: Something else when the file has changed.
        checksum: Of its content, if the source gives one.
        ranges: Whether a part of it can be asked for.
    """

    name: str
    key: str
    num_bytes: int | None
    stamp: str
    checksum: Checksum | None = None
    ranges: bool = True


class Store:
    """A directory that fsspec can read.

    Args:
        url: Its URL.

    Attributes:
        shown: The URL without secrets.

    Raises:
        CheckpointError: No file system for such URLs is installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self._url, self.shown = url, without_secrets(url)
        try:
            self._is_http = url.startswith(("http://", "https://"))
            options = http_options() if self._is_http else {}
            self._filesystem, self._root = fsspec.core.url_to_fs(url, **options)
        except Exception as error:  # each file system raises its own
            raise not_openable(error, url) from None

    def files(self, *, weights: bool = True) -> tuple[RemoteFile, ...]:
        """The files of the model that is there.

        Args:
            weights: Whether its weights are wanted too.

        Raises:
            CheckpointNotFoundError: There is nothing.
            CheckpointError: It cannot be read, or its names would lead out of a directory.
        """
        try:
            found = self._with_checksums(self._files(weights=weights))
        except Exception as error:
            raise explained(error, self._url) from None
        if not found:
            raise CheckpointNotFoundError(path=self.shown, reason="nothing is stored there", hint="Check the URL.")
        return found

    def read(self, file: RemoteFile, start: int, stop: int) -> bytes | None:
        """Some bytes of a file, fewer where it is shorter; None if the server sends whole files only, see `stream`.

        Raises:
            Exception: Whatever the file system raises.
        """
        if not self._is_http:
            data: bytes = self._filesystem.cat_file(file.key, start=start, end=stop)
            return data
        # Not cat_file, which takes a whole file into memory if the server ignores the range.
        with self._filesystem.open(
            file.key, "rb", block_size=stop - start, cache_type="none", size=file.num_bytes
        ) as opened:
            opened.seek(start)
            try:
                data = opened.read(stop - start)
            except ValueError:  # the answer is longer than what was asked for
                return None
        return data

    def stream(self, file: RemoteFile) -> AbstractContextManager[Any]:
        """A file from its beginning, to be read in order."""
        opened: AbstractContextManager[Any] = self._filesystem.open(file.key, "rb", block_size=0)
        return opened

    def _files(self, *, weights: bool) -> list[RemoteFile]:
        self._filesystem.invalidate_cache()
        if self._is_http:
            web = WebDirectory(self._filesystem, self._url)
            there = web.names()
            wanted = wanted_files(there, weights=weights)
            names = sorted({*wanted, *self._named(web.key_of, there, wanted, weights=weights)})
            keys = [web.key_of(name) for name in names]
            with ThreadPoolExecutor(NUM_THREADS) as pool:
                infos = list(pool.map(self._info, keys))
            return [_file(*found) for found in zip(names, keys, infos, strict=True)]
        listed: Mapping[str, Any] = patiently(partial(self._filesystem.find, self._root, detail=True))
        root = self._filesystem._strip_protocol(self._root)
        by_name = {posixpath.relpath(key, root): (key, info) for key, info in listed.items() if not key.endswith("/")}
        for name in by_name:
            self._require_inside(name)
        by_name.pop(".", None)  # the URL is that of a file
        wanted = wanted_files(by_name, weights=weights)
        wanted = sorted({*wanted, *self._named(lambda name: by_name[name][0], by_name, wanted, weights=weights)})
        return [_file(name, *by_name[name]) for name in wanted]

    def _named(
        self, key_of: Callable[[str], str], there: Collection[str], wanted: Collection[str], *, weights: bool
    ) -> set[str]:
        """Files that are there under names that only an index of the weights knows."""
        indices = set(INDICES) & set(wanted) if weights else set()
        texts = {index: patiently(partial(self._filesystem.cat_file, key_of(index))) for index in indices}
        return {name for index, text in texts.items() for name in named_in(index, text)} & set(there)

    def _info(self, key: str) -> Mapping[str, Any]:
        try:
            info: Mapping[str, Any] = patiently(partial(self._filesystem.info, key))
        except Exception as error:
            raise explained(error, key) from None
        return info

    def _require_inside(self, name: str) -> None:
        path = PurePosixPath(name)  # keys of object stores may hold ".."
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise CheckpointError(
                path=self.shown, reason=f"{name} would be written outside the model's directory", hint="Do not use it."
            )

    def _with_checksums(self, files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
        """Add what files beside the weights say of them."""
        by_name = {file.name: file for file in files}
        for source in (RANKS_INDEX, CHECKSUMS_FILE):
            if source not in by_name:
                continue
            text = patiently(partial(self._filesystem.cat_file, by_name[source].key))
            sums = sums_in(source, text, f"{self.shown}/{source}")
            for name in sums.keys() & by_name.keys():
                num_bytes, checksum = sums[name]
                if num_bytes is not None and by_name[name].num_bytes not in (num_bytes, None):
                    raise CorruptCheckpointError(
                        path=f"{self.shown}/{name}",
                        reason=f"has {by_name[name].num_bytes} bytes instead of the {num_bytes} in {source}",
                        hint="Put the file there again.",
                    )
                by_name[name] = replace(by_name[name], checksum=checksum)
        return tuple(by_name.values())


def _file(name: str, key: str, info: Mapping[str, Any]) -> RemoteFile:
    kept = {version: str(info[version]) for version in _VERSION_KEYS if info.get(version)}
    if not kept:
        kept = {"created": str(info.get("created"))}  # elsewhere that changes with a file's rights, too
    kept["size"] = str(info.get("size"))
    stamp = hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest()[:32]
    size = info.get("size")
    return RemoteFile(
        name=name,
        key=key,
        num_bytes=None if size is None else int(size),
        stamp=stamp,
        checksum=checksum_in(info),
        ranges=size is not None and info.get("partial") is not False,
    )
