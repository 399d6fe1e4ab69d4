"""Steps that several metrics of one image have in common, computed once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch import Tensor
from torch.utils._pytree import tree_leaves

P = ParamSpec("P")
R = TypeVar("R")


class Memo:
    """Results of `shared` steps by step and arguments."""

    def __init__(self) -> None:
        self._results: dict[Any, tuple[tuple[Any, ...], Any]] = {}

    def get(self, step: Callable[..., R], arguments: tuple[Any, ...], options: dict[str, Any]) -> R:
        """Return the result of a step, computed at its first call."""
        names = sorted(options)
        values = (*arguments, *(options[name] for name in names))
        key = (step, *names, *(id(value) if isinstance(value, Tensor) else value for value in values))
        if key not in self._results:
            # The arguments are kept, so that no other tensor gets their identity.
            self._results[key] = (values, step(*arguments, **options))
        result: R = self._results[key][1]
        return result

    def retain(self, *tensors: Tensor) -> None:
        """Drop all results except those of these tensors alone."""
        known = {id(tensor) for tensor in tensors}
        # Results come after the results they were made of.
        for key, (values, result) in list(self._results.items()):
            if all(id(value) in known for value in values if isinstance(value, Tensor)):
                known.update(id(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
            else:
                del self._results[key]


_memo: ContextVar[Memo | None] = ContextVar("memo", default=None)


@contextmanager
def sharing() -> Iterator[Memo]:
    """Compute each `shared` step once per set of arguments, until the outermost block ends."""
    if (memo := _memo.get()) is not None:
        yield memo
        return
    token = _memo.set(memo := Memo())
    try:
        yield memo
    finally:
        _memo.reset(token)


def shared(step: Callable[P, R]) -> Callable[P, R]:
    """Mark a pure function of tensors and plain options whose result several metrics use.

    Outside of `sharing` it is called each time. Tensors are compared by identity, so a caller must pass
    the tensors it was given, not new views of them; results must not be changed in place.
    """

    @wraps(step)
    def once(*arguments: P.args, **options: P.kwargs) -> R:
        memo = _memo.get()
        return step(*arguments, **options) if memo is None else memo.get(step, arguments, options)

    return once
