from __future__ import annotations

import threading

from raydsinfer.groups.stacks import RankStacks, ThreadStack, own_stacks, read_dump

DUMP = """Thread 0x00007f01 (most recent call first):
  File "/lib/threading.py", line 324 in wait
  File "/lib/threading.py", line 1038 in run
  ...

Current thread 0x00007f02 [engine] (most recent call first):
  File "/a b/engine.py", line 7 in inner
  File "<string>", line 1 in <module>

Current thread's C stack trace (most recent call first):
  Binary file "/usr/bin/python3", at _PyEval+0x1 [0x55]
"""


def test_a_dump_is_read_with_the_innermost_call_last() -> None:
    assert read_dump(DUMP) == (
        ThreadStack(ident=0x7F01, frames=("run (/lib/threading.py:1038)", "wait (/lib/threading.py:324)")),
        ThreadStack(ident=0x7F02, name="engine", frames=("<module> (<string>:1)", "inner (/a b/engine.py:7)")),
    )


def test_what_is_no_dump_has_no_threads() -> None:
    assert read_dump("") == read_dump("nonsense\n  File") == ()


def test_the_engines_thread_comes_first() -> None:
    stacks = RankStacks(threads=read_dump(DUMP), engine_thread=0x7F02)
    assert str(stacks).splitlines()[:4] == [
        "engine thread:",
        "  <module> (<string>:1)",
        "  inner (/a b/engine.py:7)",
        "thread 32513:",
    ]
    assert stacks.innermost == "<module> (<string>:1) > inner (/a b/engine.py:7)"


def test_only_the_last_calls_are_told_in_one_line() -> None:
    thread = ThreadStack(ident=5, frames=tuple("abcdefg"))
    assert RankStacks(threads=[thread], engine_thread=5).innermost == "d > e > f > g"


def test_without_stacks_the_note_stands_for_them() -> None:
    stacks = RankStacks(note="its process is gone")
    assert stacks.innermost == str(stacks) == "its process is gone"


def test_other_threads_of_this_process() -> None:
    ready, stop = threading.Event(), threading.Event()

    def wait_here() -> None:
        ready.set()
        stop.wait(30)

    thread = threading.Thread(target=wait_here, name="waiter")
    thread.start()
    ready.wait(30)
    try:
        found = {stack.ident: stack for stack in own_stacks()}
    finally:
        stop.set()
        thread.join()
    assert threading.get_ident() not in found
    stack = found[thread.ident]
    assert stack.name == "waiter"
    assert "wait_here" in " ".join(stack.frames)
