from __future__ import annotations

from types import SimpleNamespace

import pytest

from raydsinfer.checkpoints.sources.remote_errors import explained, is_absent, may_pass, not_openable, patiently
from raydsinfer.errors import CheckpointNotFoundError

SIGNED = "https://me:pass@host/model?sig=secret&x=1"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydsinfer.checkpoints.sources.remote_errors.WAITS_S", (0.0, 0.0))


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"{status}, url={SIGNED!r}")
        self.status = status


def not_found_because_of(error: Exception) -> FileNotFoundError:
    """As fsspec says it of whatever a web server answered."""
    raised = FileNotFoundError(SIGNED)
    raised.__cause__ = error
    return raised


@pytest.mark.parametrize(
    ("error", "passes", "absent"),
    [
        (ConnectionResetError(), True, False),
        (TimeoutError(), True, False),
        (HttpError(503), True, False),
        (HttpError(429), True, False),
        (HttpError(404), False, True),
        (HttpError(403), False, True),
        (HttpError(400), False, False),
        (not_found_because_of(HttpError(500)), True, False),
        (not_found_because_of(HttpError(404)), False, True),
        (not_found_because_of(ConnectionRefusedError()), True, False),
        (FileNotFoundError("gone"), False, True),
        (not_found_because_of(KeyError("gone")), False, True),
        (PermissionError("no"), False, True),
        (KeyboardInterrupt(), False, False),
    ],
)
def test_what_may_pass_and_what_says_that_nothing_is_there(error: BaseException, passes: bool, absent: bool) -> None:
    assert may_pass(error) is passes
    assert is_absent(error) is absent


@pytest.mark.parametrize(
    ("error", "message", "not_found"),
    [
        (HttpError(404), "no such place (HTTP 404). Check the URL.", True),
        (FileNotFoundError("bucket/x"), "no such place (FileNotFoundError: bucket/x)", True),
        (not_found_because_of(HttpError(403)), "no permission to read it (HTTP 403). Give every node cred", False),
        (PermissionError("Access Denied"), "no permission to read it (PermissionError: Access Denied)", False),
        (type("NoCredentialsError", (Exception,), {})("Unable to locate"), "no permission to read it (NoCred", False),
        (ConnectionResetError("by peer"), "could not be fetched (ConnectionResetError: by peer). Check that", False),
        (ValueError(SIGNED), "could not be fetched (ValueError: https://host/model)", False),
    ],
)
def test_what_is_said(error: Exception, message: str, not_found: bool) -> None:
    raised = explained(error, SIGNED)
    assert message in str(raised)
    assert str(raised).startswith("https://host/model: ")
    assert "secret" not in str(raised)
    assert "pass@" not in str(raised)
    assert isinstance(raised, CheckpointNotFoundError) is not_found


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("s3://b/m", ImportError("Install s3fs to access S3"), "s3:// takes a package that is not installed"),
        ("s3://b/m", ImportError("Install s3fs to access S3"), "Install s3fs on every node."),
        ("simplecache::gs://b/m", ImportError("no"), "Install gcsfs on every node."),
        ("nosuch://b/m", ValueError("Protocol not known: nosuch"), "nothing installed here knows nosuch://"),
    ],
)
def test_a_url_that_cannot_be_opened(url: str, error: Exception, message: str) -> None:
    assert message in str(not_openable(error, url))


@pytest.mark.usefixtures("impatient")
def test_what_passes_is_tried_again_a_few_times() -> None:
    answers = [ConnectionResetError(), TimeoutError(), "done"]
    tried = SimpleNamespace(times=0)

    def attempt() -> str:
        tried.times += 1
        answer = answers[(tried.times - 1) % 3]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    assert patiently(attempt) == "done"
    answers[2] = ConnectionResetError("still")
    with pytest.raises(ConnectionResetError, match="still"):
        patiently(attempt)
    assert tried.times == 6
    answers[0] = PermissionError()
    with pytest.raises(PermissionError):
        patiently(attempt)
    assert tried.times == 7
