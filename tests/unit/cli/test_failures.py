import signal

import pytest
import typer
from rich.console import Console

from raydsinfer.cli.failures import ExitCode, exit_code, one_interrupt, reported_failures, root_error
from raydsinfer.errors import (
    EngineError,
    ErrorRateError,
    InputError,
    InvalidSettingError,
    OutputError,
    RestartsExhaustedError,
    RowFailedError,
    RunDirectoryError,
    WorkerGroupError,
)

SETTING = InvalidSettingError(name="dtype", value="x", expected="another")
ENGINE = EngineError(doing="loading", reason="no memory")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SETTING, 2),
        (InputError(path="p", reason="r"), 2),
        (OutputError(path="p", reason="r"), 1),
        (ENGINE, 1),
        (RuntimeError("x"), 1),
        (RowFailedError(key="ab", row="'x'", reason="prompt: empty"), 4),
        (ErrorRateError(num_rows=100, num_errors=50, limit=0.1, example="prompt: empty"), 4),
        (RestartsExhaustedError(gang="g", limit=1, setting="max_restarts", history=("x",)), 1),
        (RunDirectoryError(path="p", reason="r"), 1),
        (WorkerGroupError(gang="g", phase="load", causes={0: ENGINE}), 1),
        (WorkerGroupError(gang="g", phase="load", causes={0: SETTING, 1: SETTING}), 2),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_our_error_is_found_within_others() -> None:
    wrapped = RuntimeError("ray says")
    wrapped.cause = ENGINE  # type: ignore[attr-defined]
    outer = ValueError("outermost")
    outer.__cause__ = wrapped
    assert root_error(outer) is ENGINE
    assert root_error(wrapped) is ENGINE
    plain = KeyError("x")
    assert root_error(plain) is plain


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (SETTING, ExitCode.USAGE, "error: dtype='x'"),
        (ZeroDivisionError("by zero"), ExitCode.FAILURE, "error: ZeroDivisionError: by zero (--debug shows more)"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted"),
    ],
)
def test_one_message_and_a_code(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, says: str) -> None:
    with pytest.raises(typer.Exit) as left, reported_failures(Console(stderr=True), debug=False):
        raise error
    said = capsys.readouterr().err
    assert (left.value.exit_code, says in said, "Traceback" in said) == (code, True, False)


@pytest.mark.parametrize("error", [SETTING, KeyboardInterrupt(), SystemExit(143)])
def test_how_to_go_on_is_the_last_line(capsys: pytest.CaptureFixture[str], error: BaseException) -> None:
    with (
        pytest.raises((typer.Exit, SystemExit)),
        reported_failures(Console(stderr=True), debug=False, afterwards=lambda: "Run it again."),
    ):
        raise error
    assert capsys.readouterr().err.endswith("Run it again.\n")


def test_only_the_first_interrupt_counts() -> None:
    before = signal.getsignal(signal.SIGINT)
    cleaned = False

    def interrupted() -> None:
        nonlocal cleaned
        with one_interrupt():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                cleaned = True

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert cleaned
    assert signal.getsignal(signal.SIGINT) is before
