from itertools import chain

from raydsinfer.engines.verification.canaries import (
    LONGEST_PROMPT,
    LONGEST_PROMPT_ON_CPU,
    NUM_NEW_TOKENS,
    canary_batches,
)


def batches(max_tokens=1024, max_batch_size=4, vocab_size=100, special_ids=(0, 1, 2), on_cpu=False):
    return canary_batches(
        vocab_size=vocab_size,
        special_ids=special_ids,
        max_tokens=max_tokens,
        max_batch_size=max_batch_size,
        on_cpu=on_cpu,
    )


def test_single_padded_and_up_to_max_tokens():
    single, padded, long = batches()
    assert len(single) == 1
    assert len({len(canary.token_ids) for canary in padded}) == 3
    assert len(long[0].token_ids) + long[0].num_new_tokens == 1024
    assert len(long[1].token_ids) < 10, "padded up to the longest row there is"


def test_never_more_than_max_tokens_and_never_nothing():
    for max_tokens in (2, 3, 7, 8, 20):
        for canary in chain(*batches(max_tokens)):
            assert canary.token_ids
            assert canary.num_new_tokens == min(NUM_NEW_TOKENS, max_tokens - 1)
            assert len(canary.token_ids) + canary.num_new_tokens <= max_tokens


def test_no_batch_is_larger_than_the_engine_takes():
    assert [len(batch) for batch in batches(max_batch_size=1)] == [1, 1, 1]
    assert [len(batch) for batch in batches(max_batch_size=2)] == [1, 2, 2]


def test_long_ones_have_a_limit():
    assert len(batches(131072)[2][0].token_ids) == LONGEST_PROMPT
    assert len(batches(131072, on_cpu=True)[2][0].token_ids) == LONGEST_PROMPT_ON_CPU


def test_the_same_set_each_time_without_special_tokens():
    assert batches() == batches()
    canaries = chain(*batches(vocab_size=8, special_ids=[1, 5]))
    tokens = {token for canary in canaries for token in canary.token_ids}
    assert tokens <= {0, 2, 3, 4, 6, 7}
    assert batches(vocab_size=2, special_ids=[0, 1]), "a vocabulary of special tokens alone"
