"""A model and how to run it, as one small thing that travels to other nodes."""

from __future__ import annotations

import copy
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray.train import Checkpoint

from raydsinfer.checkpoints.sources.remote_errors import explained, not_openable
from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.checkpoints.sources.web_directory import file_url
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    InvalidSettingError,
    UnsupportedError,
    shown,
    summary_of,
)

SETTINGS_FILE = "raydsinfer.json"
"""File beside the model that holds its inference settings, and where the model is if it is elsewhere."""

_LONGEST_NAME = 4096  # bytes, Linux's own limit for a path
_HERE = "."  # the model that SETTINGS_FILE names is the directory that the file is in
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class DeepSpeedCheckpoint(Checkpoint):
    """A `ray.train.Checkpoint` of a model and its inference settings.

    Pickled, it is a name and settings: other nodes read the model from where it is, so a local
    directory has to be one that every node of the gang can read.

    Attributes:
        path: The directory, the path within `filesystem`, or the hub name.
        filesystem: Where `path` is.
    """

    def __init__(self, path: str | os.PathLike[str], filesystem: Any = None, *, config: EngineConfig | None = None):
        """Refer to a directory or URL.

        Args:
            path: Local path or URL; a path within `filesystem` if that is given.
            filesystem: A `pyarrow.fs.FileSystem`.
            config: Inference settings; None means those in the directory's ``raydsinfer.json``, or defaults.

        Raises:
            CheckpointNotFoundError: A local directory that does not exist or holds no model.
            CorruptCheckpointError: Its ``raydsinfer.json`` cannot be read.
        """
        given = os.fspath(path)
        if filesystem is None:
            filesystem, given = _resolved(given)
        super().__init__(given, filesystem)
        url = _url_of(filesystem, given)
        is_local = "://" not in url
        if not is_local and "://" in os.fspath(path):
            url = os.fspath(path)
        # A URL is not looked into when there is no need: that takes a network.
        saved = _saved_settings(filesystem, given) if is_local or config is None else _Settings()
        config = config or saved.config
        if is_local and saved.model == _HERE and config.engine != "echo":
            _require_model(Path(given), os.fspath(path))
        # A directory that holds only settings names a model elsewhere.
        self._is_named, self._is_here = False, saved.model == _HERE
        self._spec = EngineSpec(model=url if self._is_here else saved.model, config=config)

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], config: EngineConfig | None = None) -> DeepSpeedCheckpoint:
        """Refer to a model by name, directory or URL. Nothing is fetched.

        Args:
            model: A directory that ``save_pretrained`` wrote, a URL that fsspec knows (``s3://…``), or a
                name on the Hugging Face hub, ``owner/name``. With ``EngineConfig(engine="echo")`` any text.
            config: Inference settings; None means those saved with the model, or defaults.

        Raises:
            CheckpointNotFoundError: A path that does not exist or holds no model.
            CorruptCheckpointError: The ``raydsinfer.json`` in it cannot be read.
        """
        if not isinstance(model, str | os.PathLike):
            raise InvalidSettingError(name="model", value=model, expected="a directory, a URL or a name, as text")
        name = os.fspath(model)
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise CheckpointNotFoundError(path=shown(name), reason="is longer than any path", hint="Check the path.")
        if "://" in name or Path(name).expanduser().is_dir():
            return cls(name, config=config)
        echo = config is not None and config.engine == "echo"
        if not echo and (isinstance(model, os.PathLike) or not _HUB_NAME.fullmatch(name) or name.startswith(".")):
            raise _not_found(name)
        return cls._named(name, config or EngineConfig())

    @classmethod
    def from_directory(cls, path: str | os.PathLike[str], config: EngineConfig | None = None) -> DeepSpeedCheckpoint:
        """Refer to a local directory: a model, or what `to_directory` wrote.

        Args:
            path: The directory.
            config: Inference settings; None means those saved in it, or defaults.

        Raises:
            CheckpointNotFoundError: It does not exist or holds no model.
            CorruptCheckpointError: Its ``raydsinfer.json`` cannot be read.
        """
        return cls(os.fspath(path), config=config)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> DeepSpeedCheckpoint:
        """Any Ray checkpoint whose directory holds a model; one of ours comes back as it is.

        Raises:
            InvalidSettingError: It is no checkpoint.
        """
        if not isinstance(checkpoint, Checkpoint):
            hint = "Write DeepSpeedCheckpoint.from_pretrained(...)."
            raise InvalidSettingError(name="checkpoint", value=checkpoint, expected="a Ray checkpoint", hint=hint)
        return checkpoint if isinstance(checkpoint, cls) else cls(checkpoint.path, checkpoint.filesystem)

    def replaced(self, **settings: Any) -> DeepSpeedCheckpoint:
        """The same model with some inference settings changed.

        Args:
            **settings: Of `EngineConfig`, by name.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        changed = copy.copy(self)
        changed._spec = replace(self._spec, config=self._spec.config.replaced(settings))
        return changed

    @property
    def spec(self) -> EngineSpec:
        """What the ranks load, and how they run it."""
        return self._spec

    def to_directory(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write a local directory that `from_directory` reads: the model's files and the settings.

        Of a model on a hub only the name is written: the nodes fetch it themselves. `trust_remote_code`
        is not read back: who uses the directory has to say it again.

        Args:
            path: Where to; None makes a temporary directory.

        Returns:
            The directory.

        Raises:
            UnsupportedError: The model is on a web server.
        """
        self._require_listing()
        if self._is_named:
            target = Path(path or tempfile.mkdtemp(prefix="raydsinfer-")).expanduser()
            target.mkdir(parents=True, exist_ok=True)
        else:
            target = Path(super().to_directory(path))
        model = _HERE if self._is_here else self._spec.model
        text = json.dumps({"model": model, "engine_config": self._spec.config.model_dump(exclude_unset=True)}, indent=2)
        part = target / f".{SETTINGS_FILE}.part"
        part.write_text(text + "\n")
        part.replace(target / SETTINGS_FILE)
        return str(target)

    @contextmanager
    def as_directory(self) -> Iterator[str]:
        """The checkpoint as a local directory for a while; read-only where it is one already."""
        self._require_listing()
        if not self._is_named:
            with super().as_directory() as directory:
                yield directory
            return
        with tempfile.TemporaryDirectory(prefix="raydsinfer-") as directory:
            yield self.to_directory(directory)

    def _require_listing(self) -> None:
        """Ray copies what a file system lists."""
        if self.path.startswith(("http://", "https://")):
            raise UnsupportedError(
                what=f"a copy of {without_secrets(self.path)}",
                why="a web server has no list of its files",
                instead="Bring the model with `raydsinfer fetch`, and use its directory.",
            )

    def set_metadata(self, metadata: dict[str, Any]) -> None:
        """Store a dictionary with the checkpoint.

        Raises:
            UnsupportedError: The model is on a hub.
        """
        if self._is_named:
            raise UnsupportedError(
                what=f"metadata on {without_secrets(self._spec.model)}",
                why="it is a name on a hub",
                instead="Use to_directory() first.",
            )
        super().set_metadata(metadata)

    def __repr__(self) -> str:
        changed = ", ".join(
            f"{name}={value!r}" for name, value in self._spec.config.model_dump(exclude_unset=True).items()
        )
        return f"DeepSpeedCheckpoint({without_secrets(self._spec.model)!r}{', ' + changed if changed else ''})"

    @classmethod
    def _named(cls, name: str, config: EngineConfig) -> DeepSpeedCheckpoint:
        self = cls.__new__(cls)
        Checkpoint.__init__(self, name, pyarrow.fs.LocalFileSystem())
        self._spec = EngineSpec(model=name, config=config)
        self._is_named, self._is_here = True, False
        return self


@dataclass(frozen=True)
class _Settings:
    model: str = _HERE
    config: EngineConfig = field(default_factory=EngineConfig)


def _saved_settings(filesystem: Any, directory: str) -> _Settings:
    is_url = "://" in directory  # fsspec's paths of files on web servers are URLs
    path = file_url(directory, SETTINGS_FILE) if is_url else f"{directory.rstrip('/')}/{SETTINGS_FILE}"
    try:
        if filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound:
            return _Settings()
        with filesystem.open_input_file(path) as file:
            content = file.readall()
    except Exception as error:
        if not is_url:
            reason, hint = f"cannot be read ({summary_of(error)})", "Check the path, and that it may be read."
            raise CorruptCheckpointError(path=path, reason=reason, hint=hint) from error
        raise explained(error, path) from None  # with the URL, and all that is in it
    try:
        saved = json.loads(content)
        model, config = saved.get("model", _HERE), saved["engine_config"]
        if not isinstance(model, str) or not isinstance(config, dict):
            raise TypeError("model is a text and engine_config an object")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError(
            path=without_secrets(path),
            reason=f"is not what DeepSpeedCheckpoint.to_directory writes ({type(error).__name__}: {error})",
            hint="Delete it to use default settings, or write it again.",
        ) from error
    # Whoever made the directory does not get to decide that code in it may run.
    config.pop("trust_remote_code", None)
    return _Settings(model, EngineConfig(**config))


def _require_model(directory: Path, given: str) -> None:
    if not directory.is_dir():
        raise _not_found(given)
    if not (directory / "config.json").is_file():
        names = sorted(entry.name for entry in directory.iterdir())
        raise CheckpointNotFoundError(
            path=given,
            reason=f"has no config.json (it holds: {', '.join(names[:8]) or 'nothing'}{', …' if names[8:] else ''})",
            hint="Give the directory that save_pretrained wrote.",
        )


def _not_found(name: str) -> CheckpointNotFoundError:
    path = Path(name).expanduser()
    if path.exists():
        return CheckpointNotFoundError(path=name, reason="is not a directory", hint="Give the directory it is in.")
    parent = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    return CheckpointNotFoundError(
        path=name,
        reason=f"no such directory ({parent} exists)",
        hint="A model on the Hugging Face hub is named owner/name, for example facebook/opt-1.3b.",
    )


def _resolved(path: str) -> tuple[Any, str]:
    """File system and path within it, of a local path or URL."""
    if "://" not in path:
        return pyarrow.fs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    try:
        filesystem, within = pyarrow.fs.FileSystem.from_uri(path)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):  # a scheme that only fsspec knows
        import fsspec

        try:
            handler, within = fsspec.core.url_to_fs(path)
        except Exception as error:  # each file system raises its own
            raise not_openable(error, path) from None
        filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(handler))
    return filesystem, within


def _url_of(filesystem: Any, path: str) -> str:
    """The URL that fsspec knows a path of an Arrow file system by; a plain path if it is local."""
    kind = str(filesystem.type_name)
    if kind == "local":
        return path
    scheme = kind.removeprefix("py::fsspec+")
    return f"{'gs' if scheme == 'gcs' else scheme}://{path}"
