from __future__ import annotations

from raydsinfer.checkpoints.sizes import memory_in_words, size_in_words


def test_memory_is_told_in_powers_of_two_and_the_rest_in_powers_of_ten() -> None:
    sizes = (12, 2048, 3 * 2**20, 5 * 2**30, 2000 * 2**30)
    assert [memory_in_words(n) for n in sizes] == ["12 bytes", "2.0 KiB", "3.0 MiB", "5.0 GiB", "2,000.0 GiB"]
    assert [size_in_words(n) for n in sizes] == ["12 bytes", "2.0 kB", "3.1 MB", "5.4 GB", "2.1 TB"]
