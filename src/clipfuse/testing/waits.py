"""What in a block would make the host wait for a GPU, found on a CPU."""

from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result has a size or a value that the host must read.
_READING = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "bincount"}
_READING |= {"unique_dim", "_unique", "_unique2", "unique_consecutive"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_VIA_HOST = ("tolist", "numpy", "cpu", "__array__")


class HostWaits(TorchDispatchMode):
    """Counts, inside its block, by operation, what would make the host wait for a GPU.

    A GPU is given work in advance, and computes while Python goes on. Whatever reads a value (`item`,
    `float`, `if tensor`, `tolist`, an index by a mask) stops Python until all that work is done, after which
    the GPU has none. Here every tensor counts as one of the GPU but those drawn from a generator, made from
    numbers of Python, or computed from such ones alone. Copies to the GPU are not seen: a CPU has none.

    Attributes:
        found: how often by operation.
        operators: how many operations of PyTorch were called, each one kernel or more on a GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.operators = 0
        self._host: dict[int, Any] = {}  # storages by address, kept so that no other gets the address
        self._plain: dict[str, Callable[..., Any]] = {}
        self._one_hot = torch.nn.functional.one_hot
        self._quiet = False

    def __enter__(self) -> Self:
        for name in _VIA_HOST:
            self._plain[name] = getattr(Tensor, name)
            setattr(Tensor, name, self._counted(name))
        torch.nn.functional.one_hot = self._counted_one_hot  # type: ignore[assignment]
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, stack)
        for name, plain in self._plain.items():
            setattr(Tensor, name, plain)
        torch.nn.functional.one_hot = self._one_hot

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operators += 1
        given = _tensors((*args, *kwargs.values()))
        name = func._schema.name.removeprefix("aten::")
        if not self._quiet and not all(map(self._is_host, given)):
            mask = name in _INDEXING and any(
                each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
            )
            if name in _READING or mask:
                self.found[name] += 1
        result = func(*args, **kwargs)
        drawn = kwargs.get("generator") is not None
        if drawn or name == "lift_fresh" or (given and all(map(self._is_host, given))):
            for each in _tensors((result,)):
                storage = each.untyped_storage()
                self._host[storage._cdata] = storage
        return result

    def _is_host(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._host

    def _counted(self, name: str) -> Callable[..., Any]:
        def read(tensor: Tensor, *arguments: Any, **named: Any) -> Any:
            if not self._quiet and not self._is_host(tensor):
                self.found[name] += 1
            return self._unseen(self._plain[name], tensor, *arguments, **named)

        return read

    def _counted_one_hot(self, tensor: Tensor, num_classes: int = -1) -> Tensor:
        if num_classes == -1 and not self._is_host(tensor):  # else a GPU is not read, and a CPU is
            self.found["one_hot"] += 1
        return self._unseen(self._one_hot, tensor, num_classes)  # type: ignore[no-any-return]

    def _unseen(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        before, self._quiet = self._quiet, True
        try:
            return function(*arguments, **named)
        finally:
            self._quiet = before


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found
