import re

from raydsinfer.groups.history import History


def test_a_line_says_when_and_why_and_how_long():
    history = History()
    history.back()  # the first start
    assert history.lines == ()
    history.failed("load: rank 0: no such symbol")
    history.failed("load: rank 1: killed")
    history.back()
    first, second = history.lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC load: rank 0: no such symbol", first)
    assert re.search(r" UTC load: rank 1: killed; back after \d+\.\d s$", second)


def test_only_the_last_failures_are_kept():
    history = History()
    for number in range(1000):
        history.failed(f"failure {number}")
    assert len(history.lines) == 100
    assert history.lines[-1].endswith("failure 999")
