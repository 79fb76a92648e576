from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from raydsinfer.engines.base import LoadProgress
from raydsinfer.engines.meter import Meter


def test_counts_a_phase_after_the_other() -> None:
    meter = Meter()
    assert meter.read() == LoadProgress()
    meter.start("fetch")
    meter.reach(3, 10)
    assert (meter.read().phase, meter.read().bytes_done, meter.read().bytes_total) == ("fetch", 3, 10)
    meter.start("weights", 100)
    meter.add(40)
    meter.add(60)
    now = meter.read()
    assert (now.phase, now.bytes_done, now.bytes_total) == ("weights", 100, 100)
    assert now.seconds > 0


def test_no_byte_of_several_threads_is_lost() -> None:
    meter = Meter()
    meter.start("weights", 8000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [meter.add(1) for _ in range(1000)], range(8)))
    assert meter.read().bytes_done == 8000
