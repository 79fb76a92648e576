from raydsinfer.engines.capabilities import dtype_problem


def test_bfloat16_needs_ampere() -> None:
    assert "this one has 7.5" in dtype_problem("bfloat16", (7, 5))
    assert "this one has 7.0" in dtype_problem("bfloat16", (7, 0))
    assert dtype_problem("bfloat16", (8, 0)) == dtype_problem("bfloat16", (9, 0)) == ""
    assert dtype_problem("float16", (7, 0)) == dtype_problem("float32", (6, 0)) == ""
