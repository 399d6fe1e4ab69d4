"""Callbacks that measure a training while it runs, and one that cuts it off.

A training is measured in three stretches, each of whole cycles: `cycle` updates, as many as have one solve of
the lower level. The first, undisturbed, gives the speed and the peak of memory. The second gives the share of
CLIP: what goes into its encoders and comes out is marked, forward and backward. On a GPU the marks are CUDA
events in the stream of the work, so that nothing waits for them. In autograd the later work comes back first:
between the gradient of what an encoder returned and that of what it was given lies its own backward and
nothing else. Its resize counts as part of it. The third runs under torch's profiler, and gives only the time
in which a kernel or a copy ran; the idle share of the GPU is what that leaves of the undisturbed time of as
many updates, and there is none on a CPU.
"""

import functools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from clipfuse.clip.encoder import FrozenClip
from clipfuse.files import write_json

ENCODERS = ("image_features", "encode_with_features", "encode_text", "encode_embeddings")


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Cut(Exception):
    """A training was cut off on purpose."""


class CutOff(Callback):
    """Ends a training as a loss of power would, after so many updates."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Raise `Cut` when it is time."""
        if trainer.global_step == self.updates:
            raise Cut(f"after update {self.updates}")


class _Mark(torch.autograd.Function):
    """The identity; its backward takes note of the time."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, note: Callable[[], None]) -> Tensor:
        ctx.note = note
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.note()
        return gradient, None


def _marked(value: Any, note: Callable[[], None]) -> Any:
    """Mark the tensors with a graph in what an encoder takes or returns."""
    if isinstance(value, Tensor):
        return _Mark.apply(value, note) if value.requires_grad and torch.is_grad_enabled() else value
    if isinstance(value, dict):
        return {name: _marked(each, note) for name, each in value.items()}
    return tuple(_marked(each, note) for each in value) if isinstance(value, tuple) else value


class ClipClock:
    """Measures the time in CLIP's encoders, forward and backward, while `running`.

    Args:
        device: of the training.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spans: list[tuple[Any, Any]] = []

    def seconds(self) -> float:
        """Return the sum over all passes so far."""
        synchronise(self.device)
        if self.device.type == "cuda":
            return sum(start.elapsed_time(end) for start, end in self.spans) / 1000
        return float(sum(end - start for start, end in self.spans))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Mark the passes of every `FrozenClip`."""
        patches = [
            patch.object(FrozenClip, name, self._timed(getattr(FrozenClip, name))) for name in ENCODERS
        ]
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in patches:
                each.stop()

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _timed(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(encode)
        def timed(clip: FrozenClip, given: Any, *arguments: Any, **options: Any) -> Any:
            began: list[Any] = []  # the start of a backward that has not ended yet

            def begin() -> None:
                began[:] = began or [self._now()]

            def end() -> None:
                if began:
                    self.spans.append((began.pop(), self._now()))

            start = self._now()
            result = encode(clip, _marked(given, end), *arguments, **options)
            self.spans.append((start, self._now()))
            return _marked(result, begin)

        return timed


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of intervals, each (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


class StepMeter(Callback):
    """Measures a training, writes the figures as JSON and ends the training.

    `samples_per_second`; `milliseconds`, `updates` and `peak_memory_mb` (10^6 bytes of tensors on the GPU;
    None on a CPU) of the undisturbed stretch; `clip_share` and `idle_share`, as the module says; `waits`, how
    often an update makes the host wait for the GPU; `remark`: why the profiler gave no idle share.

    Args:
        path: of the JSON file.
        cycle: updates of which every stretch holds a whole number.
        warm: updates before the first stretch.
        seconds: length of the first stretch; it has one cycle at least.
        most: updates of the first stretch at most, or one cycle.
    """

    def __init__(self, path: str, cycle: int, warm: int, seconds: float, most: int = 200) -> None:
        self.path = Path(path)
        self.cycle, self.warm, self.seconds, self.most = cycle, warm, seconds, most
        self._measuring: Iterator[None] = iter(())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin."""
        self._measuring = self._measure(trainer)
        next(self._measuring)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go on where the last update left."""
        self.batch_size = len(batch)
        next(self._measuring, None)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Take marks and profiler away."""
        getattr(self._measuring, "close", lambda: None)()

    def _measure(self, trainer: L.Trainer) -> Iterator[None]:
        """Each `yield` is one update, the loading of its batch included."""
        device = trainer.strategy.root_device
        cuda = device.type == "cuda"
        for _ in range(self.warm):
            yield
        synchronise(device)
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        start, updates = time.perf_counter(), 0
        while not updates or (time.perf_counter() - start < self.seconds and updates < self.most):
            for _ in range(self.cycle):
                yield
            updates += self.cycle
        synchronise(device)
        each = (time.perf_counter() - start) / updates
        peak = round(torch.cuda.max_memory_allocated(device) / 1e6, 1) if cuda else None

        clock = ClipClock(device)
        with clock.running():
            start = time.perf_counter()
            for _ in range(self.cycle):
                yield
            synchronise(device)
            whole = time.perf_counter() - start
        figures: dict[str, Any] = {
            "samples_per_second": self.batch_size / each,
            "milliseconds": 1000 * each,
            "updates": updates,
            "peak_memory_mb": peak,
            "clip_share": clock.seconds() / whole,
            "idle_share": None,
            "waits": None,
        }
        if cuda:
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    for _ in range(self.cycle):
                        yield
            finally:
                torch.cuda.set_sync_debug_mode("default")
            figures["waits"] = sum("synchronizing" in str(each.message) for each in said) / self.cycle
            try:
                # Without the CPU's side: kernels alone, which the profiler hardly slows down.
                with profile(activities=[ProfilerActivity.CUDA]) as trace:
                    for _ in range(self.cycle):
                        yield
                    synchronise(device)
                figures |= idle_share(trace, self.cycle * each)
            except RuntimeError as error:  # a machine that forbids it
                figures["remark"] = f"no profiler: {error}".splitlines()[0]
        write_json(self.path, figures)
        trainer.should_stop = True
        yield


def idle_share(trace: profile, seconds: float) -> dict[str, Any]:
    """Return what the kernels and copies of a trace leave of the time that its updates take undisturbed."""
    spans = [
        (event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in trace.events() or ()
        if event.device_type == DeviceType.CUDA
        and not event.is_user_annotation
        # Waiting is recorded on the GPU's side, too.
        and not event.name.endswith((" Sync", "Wait Event"))
    ]
    if not spans:
        return {"remark": "the profiler saw no kernel"}
    return {"idle_share": max(0.0, 1 - covered(spans) / seconds)}
