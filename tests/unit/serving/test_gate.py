"""The gate: many together or one alone, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from raydsinfer.serving.gate import Gate


def test_who_is_alone_is_alone() -> None:
    gate, lock = Gate(), threading.Lock()
    inside, seen = [0, 0], []  # together, alone

    def pass_through(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        for _ in range(40):
            alone = chance.random() < 0.3
            with gate.exclusive() if alone else gate.shared():
                with lock:
                    inside[alone] += 1
                    seen.append(tuple(inside))
                time.sleep(0.0002)
                with lock:
                    inside[alone] -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(pass_through, range(6)))
    assert all(alone == 0 or (together, alone) == (0, 1) for together, alone in seen)
    assert max(together for together, _ in seen) > 1
    assert len(seen) == 240


def test_who_wants_to_be_alone_comes_before_those_who_come_later() -> None:
    gate, order = Gate(), []

    def enter(name: str, alone: bool) -> None:
        with gate.exclusive() if alone else gate.shared():
            order.append(name)

    with ThreadPoolExecutor(2) as pool:
        with gate.shared():
            waiting = [pool.submit(enter, "alone", True)]
            while not gate._num_alone_waiting:
                time.sleep(0.001)
            waiting.append(pool.submit(enter, "later", False))
            time.sleep(0.05)
            assert order == []
        for future in waiting:
            future.result(10)
    assert order == ["alone", "later"]


def test_an_error_inside_opens_the_gate() -> None:
    gate = Gate()
    for way in (gate.shared, gate.exclusive):
        try:
            with way():
                raise ValueError
        except ValueError:
            pass
    with gate.exclusive():
        pass
