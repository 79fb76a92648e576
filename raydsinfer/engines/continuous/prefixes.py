"""Names for what a page holds, so that equal beginnings of prompts can be found."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

_DIGEST_BYTES = 16  # two texts with one name would be wrong text: 128 bits make that impossible in practice


def extend_chain(chain: list[bytes], token_ids: Sequence[int], page_size: int) -> None:
    """Append the names of the full pages that `chain` does not name yet.

    A page's name is a hash of its tokens and of the name of the page before it: keys and values depend on
    all tokens before, so two pages hold the same only if everything up to their end is equal.

    Args:
        chain: Names of the first pages of `token_ids`; grows to ``len(token_ids) // page_size``.
        token_ids: Tokens of a sequence from its start.
        page_size: Tokens of a page.
    """
    begin, end = len(chain) * page_size, len(token_ids) // page_size * page_size
    data = array("q", token_ids[begin:end]).tobytes()
    width = 8 * page_size
    name = chain[-1] if chain else b""
    for offset in range(0, len(data), width):
        name = blake2b(name + data[offset : offset + width], digest_size=_DIGEST_BYTES).digest()
        chain.append(name)
