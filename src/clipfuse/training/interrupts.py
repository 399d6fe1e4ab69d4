"""Stopping a training by Ctrl-C, or by the SIGTERM with which a cluster takes its machine back."""

import os
import signal
import threading
from types import FrameType

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException


class StopRequest:
    """Remembers a SIGINT or SIGTERM until the run has reached a point where it can be saved.

    Lightning would stop at once and save nothing; it restores the old handlers when it ends.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._process = os.getpid()

    def install(self) -> None:
        """Handle both signals from here on."""
        self.number, self._process = None, os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader process; the training process ends it
        if number == signal.SIGINT and self.number is not None:
            raise KeyboardInterrupt
        if self.number is None and number == signal.SIGINT:
            print("\nstopping after this update; Ctrl-C again stops at once, without saving", flush=True)
        self.number = number

    def requested(self, trainer: L.Trainer) -> bool:
        """Return whether any rank got a signal; collective: call it on all ranks."""
        return trainer.strategy.reduce_boolean_decision(self.number is not None, all=False)

    def raise_stop(self) -> None:
        """End the run.

        Raises:
            KeyboardInterrupt: this rank got a SIGINT.
            SIGTERMException: this rank, or only another one, got a SIGTERM.
        """
        raise KeyboardInterrupt if self.number == signal.SIGINT else SIGTERMException
