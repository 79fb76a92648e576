from __future__ import annotations

import pytest

from raydsinfer.engines.account import Account
from raydsinfer.errors import WeightsMismatchError


def nothing(name: str) -> bool:
    return False


def test_all_is_well_when_each_tensor_found_its_parameter() -> None:
    account = Account("m", {"a": "x.a", "b": "x.b"}, [])
    assert account.take("a") == "x.a"
    assert account.take("b") == "x.b"
    assert account.fits("a", (2, 3), [2, 3])
    account.close(nothing)


def test_a_tied_parameter_takes_its_partners_tensor() -> None:
    account = Account("m", {"embed": "wte"}, [{"embed", "head"}])
    assert account.take("head") == "wte"
    assert account.take("embed") == "wte"
    account.close(nothing)


def test_both_names_of_a_tied_tensor_count_as_used() -> None:
    account = Account("m", {"embed": "wte", "head": "lm_head"}, [{"embed", "head"}])
    assert account.take("head") == "lm_head"
    account.close(nothing)


def test_what_is_left_over_is_named() -> None:
    account = Account("m", {"a": "x.a", "odd": "x.odd", "buffer": "x.buffer"}, [])
    account.take("a")
    assert account.take("missing") is None
    assert not account.fits("a", (2, 3), (3, 2))
    with pytest.raises(WeightsMismatchError) as caught:
        account.close(lambda name: name == "buffer")
    assert caught.value.never_filled == ["missing"]
    assert caught.value.nothing_took == ["x.odd"]
    assert caught.value.wrong_shape == {"a": "(2, 3) instead of (3, 2)"}


@pytest.mark.parametrize(
    ("dtype", "floating", "converts"),
    [
        ("bfloat16", True, True),
        ("float64", True, True),
        ("int8", True, False),
        ("float8_e4m3fn", True, False),
        ("int64", False, True),
        ("float32", False, False),
    ],
)
def test_quantised_weights_are_not_cast(dtype: str, floating: bool, converts: bool) -> None:
    account = Account("m", {"a": "a"}, [])
    account.take("a")
    assert account.converts("a", dtype, floating=floating) is converts
    if not converts:
        with pytest.raises(WeightsMismatchError, match=f"quantised: a is {dtype}"):
            account.close(nothing)
