"""Two or more ranks on one machine, kept alive between tests, because each takes seconds to start."""

import atexit
import inspect
import os
import tempfile
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import distributed, multiprocessing


class Ranks:
    """Processes joined by gloo, each of which runs the same function.

    Args:
        count: number of ranks, 2 or more.
        timeout_s: seconds after which a call without an answer is an error.

    Raises:
        TimeoutError: the ranks did not come up.
    """

    def __init__(self, count: int = 2, timeout_s: float = 120) -> None:
        self.timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(count)]
        store = Path(self._folder.name) / "store"
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(theirs, rank, count, str(store)), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        for _, theirs in pipes:
            theirs.close()
        self.run(_ready)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function on every rank at once.

        Args:
            function: defined at the top level of a file; `torch.distributed` is initialised when it runs.
            *arguments: the same for all ranks.

        Returns:
            One result per rank.

        Raises:
            RuntimeError: a rank raised, or died; holds its traceback.
            TimeoutError: a rank did not answer in time. In both cases the ranks are stopped.
        """
        for pipe in self._pipes:
            pipe.send((inspect.getfile(function), function.__qualname__, arguments))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(self.timeout_s):
                self.close()
                raise TimeoutError(
                    f"rank {rank} gave no answer to {function.__qualname__} in {self.timeout_s:g} s"
                )
            try:
                answers.append(pipe.recv())
            except EOFError:
                self.close()
                raise RuntimeError(f"rank {rank} died in {function.__qualname__}") from None
            if answers[-1][1] is not None:
                self.close()
                raise RuntimeError(f"rank {rank} failed in {function.__qualname__}:\n{answers[-1][1]}")
        return [result for result, _ in answers]

    @property
    def closed(self) -> bool:
        """Whether the ranks were stopped."""
        return not all(process.is_alive() for process in self._processes)

    def close(self) -> None:
        """Stop the ranks."""
        for process in self._processes:
            process.kill()  # the function it runs may handle SIGTERM
            process.join()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_shared: list[Ranks] = []


def shared_ranks() -> Ranks:
    """Return two ranks that live until this process ends; after a failure, which stops them, two new ones."""
    if not _shared or _shared[0].closed:
        _shared[:] = [Ranks(2, timeout_s=600)]  # beside other processes importing takes long
        atexit.register(_shared[0].close)
    return _shared[0]


def _serve(pipe: Connection, rank: int, count: int, store: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    while True:
        try:
            file, name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((_load(file, name)(*arguments), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))


def _load(file: str, name: str) -> Callable[..., Any]:
    # By file, not by module name: test files belong to no package.
    spec = spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., Any] = getattr(module, name)
    return function


def _ready() -> int:
    return distributed.get_rank()
