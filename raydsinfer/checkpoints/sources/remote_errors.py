"""What goes wrong with a remote store: whether it may pass, and what to say of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError, summary_of

T = TypeVar("T")

WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Seconds before the second, third, … attempt; after as many attempts without a byte more, it is an error."""

_NEVER_PASSES = (
    *(FileNotFoundError, PermissionError, NotADirectoryError),
    *(NotImplementedError, ImportError, TypeError, ValueError),
)
_PASSING_STATUSES = {408, 425, 429}  # the only ones of the client's errors that may pass
_PACKAGES = {
    "http": "fsspec[http]",
    "https": "fsspec[http]",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "oci": "ocifs",
    "oss": "ossfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "webdav": "webdav4",
}


def patiently(attempt: Callable[[], T]) -> T:
    """Do something over a network, a few times more if what went wrong may pass.

    Raises:
        Exception: What the last attempt raised.
    """
    for wait_s in WAITS_S:
        try:
            return attempt()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(wait_s)
    return attempt()


def may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: connections break, servers are busy."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUSES
    return isinstance(error, Exception) and not isinstance(_root(error), _NEVER_PASSES)


def is_absent(error: BaseException) -> bool:
    """Whether an error says that there is no such file: some servers forbid what they do not have."""
    return _status(error) in (403, 404, 410) or isinstance(_root(error), (FileNotFoundError, PermissionError))


def explained(error: Exception, url: str) -> CheckpointError:
    """The error to raise for what a store raised, without secrets; raise it `from None`.

    Args:
        error: What was raised; it may carry the URL with all that is in it.
        url: Where the store was asked.
    """
    if isinstance(error, CheckpointError):
        return error
    status, root, said, path = _status(error), _root(error), _said(error), without_secrets(url)
    if status in (401, 403) or isinstance(root, PermissionError) or "Credentials" in type(root).__name__:
        return CheckpointError(
            path=path,
            reason=f"no permission to read it ({said})",
            hint="Give every node credentials that may, in the place where the store's own library looks for them.",
        )
    if status in (404, 410) or isinstance(root, (FileNotFoundError, NotADirectoryError)):
        return CheckpointNotFoundError(path=path, reason=f"no such place ({said})", hint="Check the URL.")
    return CheckpointError(
        path=path,
        reason=f"could not be fetched ({said})",
        hint="Check that the nodes reach it, and fetch again: what has arrived is kept.",
    )


def not_openable(error: Exception, url: str) -> CheckpointError:
    """The error for a URL of a kind that nothing here can open."""
    protocol = url.partition("://")[0].rpartition("::")[2]
    path, package = without_secrets(url), _PACKAGES.get(protocol)
    if isinstance(error, ImportError):
        return CheckpointError(
            path=path,
            reason=f"reading {protocol}:// takes a package that is not installed ({_said(error)})",
            hint=f"Install {package} on every node." if package else "Install it on every node.",
        )
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return CheckpointError(
            path=path,
            reason=f"nothing installed here knows {protocol}://",
            hint="Use a kind of URL that fsspec knows, like s3://, gs://, abfs://, https:// or file://.",
        )
    return explained(error, url)


def _root(error: BaseException) -> BaseException:
    """fsspec says "not found" of whatever went wrong while it asked a web server for a file."""
    cause = error.__cause__
    of_the_network = isinstance(cause, OSError) or isinstance(getattr(cause, "status", None), int)
    of_the_network = of_the_network or type(cause).__module__.startswith("aiohttp")
    return cause if isinstance(error, FileNotFoundError) and cause is not None and of_the_network else error


def _status(error: BaseException) -> int | None:
    root = _root(error)
    value = getattr(root, "status", None)
    if value is None:  # some have both, and warn of the older
        value = getattr(root, "code", None)
    return value if isinstance(value, int) and 400 <= value < 600 else None


def _said(error: BaseException) -> str:
    root = _root(error)
    status = _status(error)
    return f"HTTP {status}" if status else without_secrets(summary_of(root))
