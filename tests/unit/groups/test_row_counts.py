from raydsinfer.groups.row_counts import RowCounts


def test_counts_add_up_and_keep_the_first_error():
    counts = RowCounts().plus(64, 0, "").plus(64, 2, "length: too long").plus(10, 1, "prompt: empty")
    assert counts == RowCounts(num_rows=138, num_errors=3, example="length: too long")


def test_what_did_not_fail_is_no_example():
    assert RowCounts().plus(64, 0, "was there").example == ""
