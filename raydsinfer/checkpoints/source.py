"""Where a model comes from: a directory, a URL, or a hub; ends as a directory on this node."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path

from filelock import FileLock

from raydsinfer.errors import CheckpointError, CheckpointNotFoundError, summary_of

# What describes a model without being its weights.
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]
_WEIGHT_FILES = ["*.safetensors", "*.bin"]


def local_directory(
    model: str, *, revision: str | None = None, hf_home: str | None = None, weights: bool = True
) -> Path:
    """The directory on this node that holds a model; fetched first if it is elsewhere.

    Args:
        model: Local directory, URL that fsspec knows (``s3://…``, ``gs://…``), or hub name.
        revision: Branch, tag or commit on the hub.
        hf_home: Directory for fetched models; None means the hub library's own.
        weights: Whether the weights are needed, or only configuration and tokenizer.

    Raises:
        CheckpointNotFoundError: There is no such model.
        CheckpointError: It could not be fetched.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if "://" in model:
        return _fetched_from_url(model, _cache_directory(hf_home), weights=weights)
    if looks_like_path(model):
        raise CheckpointNotFoundError(
            path=model,
            reason="no such directory on this node",
            hint="Give a directory that every node can read, a URL, or a hub name.",
        )
    return _fetched_from_hub(model, revision, hf_home, weights=weights)


def looks_like_path(model: str) -> bool:
    """Whether a model's name can only be meant as a path, not as ``owner/name`` on a hub."""
    return model.startswith(("/", "./", "../", "~")) or model.count("/") > 1 or os.sep * 2 in model


def _cache_directory(hf_home: str | None) -> Path:
    home = hf_home or os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(home).expanduser() / "raydsinfer"


def _fetched_from_hub(model: str, revision: str | None, hf_home: str | None, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = _SMALL_FILES + (_WEIGHT_FILES if weights else [])
    cache = str(Path(hf_home).expanduser() / "hub") if hf_home else None
    try:
        directory = snapshot_download(model, revision=revision, cache_dir=cache, allow_patterns=patterns)
    except LocalEntryNotFoundError as error:
        raise CheckpointNotFoundError(
            path=model,
            reason="not a directory here, not in the hub cache, and the hub cannot be reached",
            hint="Check the spelling, or fetch the model first and give its directory.",
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointNotFoundError(
            path=model,
            reason=f"the hub does not give it ({summary_of(error)})",
            hint="Check the name and the revision; a gated model needs HF_TOKEN on every node.",
        ) from error
    return Path(directory)


def _fetched_from_url(url: str, cache: Path, *, weights: bool) -> Path:
    """Copy a remote directory to this node once, however many ranks ask for it at the same time."""
    import fsspec

    name = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16] + ("" if weights else "-small")
    target = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        if target.is_dir():
            return target
        for abandoned in cache.glob(f"{name}.part-*"):  # by a process that was killed: nobody else has the lock
            shutil.rmtree(abandoned, ignore_errors=True)
        part = cache / f"{name}.part-{uuid.uuid4().hex[:8]}"
        try:
            filesystem, root = fsspec.core.url_to_fs(url)
            files = [f for f in filesystem.find(root) if weights or not f.endswith((".safetensors", ".bin", ".gguf"))]
            if not files:
                raise CheckpointNotFoundError(path=url, reason="nothing is stored there", hint="Check the URL.")
            for file in files:
                local = part / os.path.relpath(file, filesystem._strip_protocol(root))
                if not Path(os.path.normpath(local)).is_relative_to(part):  # keys of object stores may hold ".."
                    raise CheckpointError(
                        path=url, reason=f"{file} would be written outside the model's directory", hint="Do not use it."
                    )
                local.parent.mkdir(parents=True, exist_ok=True)
                filesystem.get_file(file, str(local))
            part.rename(target)
        except CheckpointError:
            raise
        except Exception as error:  # each file system raises its own
            raise CheckpointError(
                path=url,
                reason=f"could not be fetched ({type(error).__name__}: {error})",
                hint="Check the URL, the credentials on the nodes, and the disk.",
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target
