"""Steps that several metrics of one image have in common, computed once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_memo: ContextVar[dict[Any, Any] | None] = ContextVar("memo", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Inside, a `shared` step is computed once per set of arguments; at the end all is forgotten."""
    token = _memo.set({})
    try:
        yield
    finally:
        _memo.reset(token)


def shared(step: Callable[P, R]) -> Callable[P, R]:
    """Mark a pure function of tensors and plain options whose result several metrics use.

    Outside of `sharing` it is called as ever. Tensors are told apart by identity, so a caller hands
    on the tensors it was given and not a fresh view of them; results must not be changed in place.
    """

    @wraps(step)
    def once(*arguments: P.args, **options: P.kwargs) -> R:
        memo = _memo.get()
        if memo is None:
            return step(*arguments, **options)
        values = (*arguments, *(value for _, value in sorted(options.items())))
        key = (
            step,
            *sorted(options),
            *(id(value) if isinstance(value, Tensor) else value for value in values),
        )
        if key not in memo:
            # The arguments are kept, so that no other tensor gets their identity.
            memo[key] = (values, step(*arguments, **options))
        return memo[key][1]

    return once
