"""The end of a training before its last update: by a signal, a time limit, or a callback."""

import os
import signal
import threading
from types import FrameType

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.utilities.exceptions import SIGTERMException


def stopped_early(trainer: L.Trainer) -> str | None:
    """Return why a training has ended before its last update, or None; a signal is no end."""
    if not trainer.should_stop or trainer.global_step >= trainer.max_steps:
        return None
    why = "a callback ended it"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            why = callback.stopping_reason_message.partition(" Signaling Trainer")[0].rstrip(".")
        if isinstance(callback, Timer) and (callback.time_remaining() or 0) <= 0:
            why = "the time of trainer.max_time is over"
    return f"stopped early after update {trainer.global_step} of {trainer.max_steps}: {why}"


class StopRequest:
    """Remembers a SIGINT or SIGTERM until the run has reached a point where it can be saved.

    In a job of SLURM SIGUSR1, the signal of `--signal=USR1@SECONDS`, is taken as a SIGTERM.

    Lightning would stop at once and save nothing; it restores the old handlers when it ends.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._process = os.getpid()

    def install(self) -> None:
        """Handle the signals from here on."""
        self.number, self._process = None, os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._remember)
            if "SLURM_JOB_ID" in os.environ and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
                signal.signal(signal.SIGUSR1, self._remember)

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
            SIGTERMException: this rank got another signal, or only another rank got one.
        """
        raise KeyboardInterrupt if self.number == signal.SIGINT else SIGTERMException
