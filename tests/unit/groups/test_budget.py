from raydsinfer.groups.budget import Budget, backoff_s


def test_a_budget_gives_so_many_and_takes_back():
    budget = Budget()
    assert [budget.take(2, 60, now_s) for now_s in (0, 1, 2)] == [True, True, False]
    budget.refund(1)
    assert [budget.take(2, 60, now_s) for now_s in (3, 4)] == [True, False]
    assert budget.num_taken(60, 5) == 2


def test_what_was_taken_long_ago_is_forgiven():
    budget = Budget()
    assert [budget.take(2, 10, now_s) for now_s in (0, 6, 9, 10, 15, 16)] == [True, True, False, True, False, True]
    assert budget.num_taken(10, 100) == 0


def test_nothing_is_refunded_that_was_not_taken():
    budget = Budget()
    budget.take(5, 60, 0)
    budget.refund(3)
    assert budget.num_taken(60, 1) == 0
    assert not budget.take(0, 60, 1)


def test_the_first_restart_waits_for_nothing_and_each_in_vain_twice_as_long_up_to_a_minute():
    assert [backoff_s(number, 1.0) for number in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s(10_000, 1.0) == 60
    assert [backoff_s(number, 0.0) for number in (0, 1, 10_000)] == [0, 0, 0]
