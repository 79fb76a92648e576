"""The account of a load: each parameter filled once, each tensor of the checkpoint used or knowingly ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from raydsinfer.errors import WeightsMismatchError

_HINT = "If transformers can load this model, try use_meta_tensor=False."


class Account:
    """Knows which tensor of a checkpoint belongs to which parameter, and what became of each.

    Args:
        path: The checkpoint's name in errors.
        sources: Parameter name → tensor name.
        tied: Groups of parameter names that share one tensor.
        hint: What errors advise.
    """

    def __init__(self, path: str, sources: Mapping[str, str], tied: Iterable[set[str]], *, hint: str = _HINT) -> None:
        self._path, self._sources, self._hint = path, sources, hint
        self._partners = {name: sorted(group - {name}) for group in tied for name in group}
        self._used: set[str] = set()
        self._never_filled: list[str] = []
        self._wrong_shape: dict[str, str] = {}
        self._wrong_dtype: dict[str, str] = {}

    def take(self, name: str) -> str | None:
        """The tensor that fills a parameter, or one that is tied to it; None, and noted, if there is none."""
        names = [name, *self._partners.get(name, [])]
        sources = [self._sources[n] for n in names if n in self._sources]
        if not sources:
            self._never_filled.append(name)
            return None
        self._used.update(sources)
        return sources[0]

    def fits(self, name: str, have: Sequence[int], want: Sequence[int]) -> bool:
        """Whether the shape in the checkpoint is the parameter's; noted if not."""
        if tuple(have) == tuple(want):
            return True
        self._wrong_shape[name] = f"{tuple(have)} instead of {tuple(want)}"
        return False

    def converts(self, name: str, have: str, *, floating: bool) -> bool:
        """Whether values of a dtype become a parameter's by a cast; noted if not.

        Integers and floats of eight bits are quantised weights: without their scale they mean nothing.
        """
        if floating and have in ("float16", "bfloat16", "float32", "float64"):
            return True
        if not floating and "float" not in have:
            return True
        self._wrong_dtype[name] = have
        return False

    def close(self, ignorable: Callable[[str], bool]) -> None:
        """Look whether everything was accounted for.

        Args:
            ignorable: Whether a parameter's name is one that the model knowingly does without.

        Raises:
            WeightsMismatchError: A parameter was not filled, or a tensor was not used.
        """
        unused = [name for target, name in self._sources.items() if name not in self._used and not ignorable(target)]
        if self._never_filled or unused or self._wrong_shape or self._wrong_dtype:
            raise WeightsMismatchError(
                path=self._path,
                never_filled=sorted(self._never_filled),
                nothing_took=sorted(unused),
                wrong_shape=self._wrong_shape,
                wrong_dtype=self._wrong_dtype,
                hint=self._hint,
            )
