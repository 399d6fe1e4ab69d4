"""Being told to stop: Ctrl-C, and the SIGTERM of a cluster that wants its machine back."""

import os
import signal
import threading
from types import FrameType

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException


class StopRequest:
    """Remembers a SIGINT or SIGTERM until the run has come to where it can be saved.

    Lightning would stop wherever it stands, without saving; it puts the old handlers back at its end.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._process = os.getpid()

    def listen(self) -> None:
        """Take both signals from here on."""
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

    def made(self, trainer: L.Trainer) -> bool:
        """Return whether any rank was told to stop; all ranks ask together and agree."""
        return trainer.strategy.reduce_boolean_decision(self.number is not None, all=False)

    def obey(self) -> None:
        """End the run.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
            SIGTERMException: it was SIGTERM, or another rank was told.
        """
        raise KeyboardInterrupt if self.number == signal.SIGINT else SIGTERMException
