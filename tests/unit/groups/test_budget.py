from raydsinfer.groups.budget import Budget, backoff_s


def test_a_budget_gives_so_many_and_takes_back():
    budget = Budget()
    assert [budget.take(2) for _ in range(3)] == [True, True, False]
    budget.refund(1)
    assert [budget.take(2) for _ in range(2)] == [True, False]
    assert budget.num_taken == 2


def test_nothing_is_refunded_that_was_not_taken():
    budget = Budget()
    budget.take(5)
    budget.refund(3)
    assert budget.num_taken == 0
    assert not budget.take(0)


def test_the_first_restart_waits_for_nothing_and_each_in_vain_twice_as_long_up_to_a_minute():
    assert [backoff_s(number, 1.0) for number in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_s(10_000, 1.0) == 60
    assert [backoff_s(number, 0.0) for number in (0, 1, 10_000)] == [0, 0, 0]
