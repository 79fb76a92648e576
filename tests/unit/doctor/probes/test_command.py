import sys

from raydsinfer.doctor.probes.command import Ran, ran


def python(code: str, timeout_s: float = 60) -> Ran:
    return ran([sys.executable, "-c", code], timeout_s=timeout_s)


def test_what_a_command_says() -> None:
    assert python("print('fine')") == Ran("fine")
    assert python("import sys; print('note'); print('fatal error: x'); print('stopped'); sys.exit(1)").problem == (
        "fatal error: x"
    )
    assert python("import sys; print('stopped'); sys.exit(1)").problem == "stopped"
    assert python("import sys; sys.exit(3)").problem == "exit code 3"


def test_what_does_not_run_or_does_not_end() -> None:
    assert ran(["/no/such/program"], timeout_s=60).problem == "/no/such/program: No such file or directory"
    assert "did not end within 0.5 s" in python("import time; time.sleep(60)", timeout_s=0.5).problem
