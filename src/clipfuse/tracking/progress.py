"""One line that shows how far a run is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import floor
from threading import Lock
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


@contextmanager
def amount_bar(title: str, unit: str, total: int, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """Show a bar over an amount of work that is reported in parts, with the time the rest will take.

    Yields:
        A function of what has been done since its last call.
    """
    place: Any = {"mininterval": 0.2 if sys.stderr.isatty() else 10, "dynamic_ncols": True}
    with tqdm(desc=title, unit=unit, total=total, disable=quiet or not total, **place) as bar:
        done, lock = 0.0, Lock()

        def advance(amount: float) -> None:
            nonlocal done
            with lock:  # reports come from several threads
                done += amount
                bar.update(min(total, floor(done + 1e-6)) - bar.n)

        yield advance


class RunProgress(ProgressBar):
    """A bar over the updates of a run, then one over its test pairs; redrawn rarely in log files."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self.bar: Any = None

    def enable(self) -> None:
        """Show bars; Lightning calls this on the first rank."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all other ranks."""
        self._enabled = False

    def _open(self, title: str, unit: str, total: int, initial: int = 0) -> None:
        # A log file keeps every redrawn line.
        place: Any = {"mininterval": 0.2 if sys.stderr.isatty() else 10, "dynamic_ncols": True}
        self.bar = tqdm(
            desc=title, unit=unit, total=total, initial=initial, disable=not self._enabled, **place
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the updates that are done."""
        self._open("training", " updates", trainer.max_steps, trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move to the number of updates done and show the loss."""
        loss = trainer.progress_bar_metrics.get("loss")
        if loss is not None:
            self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar on the screen."""
        self.bar.close()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar of the test."""
        total = sum(int(count) for count in trainer.num_test_batches)
        self._open("testing", " pairs", total)

    def on_test_batch_end(self, *arguments: Any, **keywords: Any) -> None:
        """Count a pair."""
        self.bar.update()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar on the screen."""
        self.bar.close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """End the line, so that the error gets its own."""
        if self.bar is not None:
            self.bar.close()
