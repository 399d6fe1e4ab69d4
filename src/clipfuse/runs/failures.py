"""Failures in the middle of a run that are no defect of the program, explained in one line."""

import errno
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipfuse.errors import UserError, reason
from clipfuse.training.hangs import is_of_a_lost_rank


@contextmanager
def failures_explained(config: Mapping[str, Any]) -> Iterator[None]:
    """Turn what Lightning and torch raise in a run into errors that name the remedy.

    Args:
        config: the run's whole configuration in plain types.

    Raises:
        UserError: memory ran out, Lightning refused its settings, a loader process was killed, another
            rank is lost, or parameters took no part in an update.
        SystemExit: the run was stopped by SIGTERM, with code 143.
        KeyboardInterrupt: it was stopped by Ctrl-C.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        # Lightning turns Ctrl-C into exit code 1.
        raise (error.__context__ if isinstance(error.__context__, KeyboardInterrupt) else error) from None
    except (MemoryError, RuntimeError) as error:
        if is_of_a_lost_rank(error):
            raise UserError(
                "another process of this run has ended, or takes part in another exchange of the ranks, and "
                f"this one lost it: its own output names the cause, or it was killed, for lack of memory "
                f"perhaps ({reason(error)[:200]})"
            ) from error
        if "find_unused_parameters=True" in str(error):
            raise UserError(
                "some parameters of the network or the loss took no part in an update; set "
                "trainer.strategy.find_unused_parameters=true"
            ) from error
        first: BaseException = error
        while first.__context__ is not None:  # Lightning's own cleaning up may have failed in turn
            first = first.__context__
        full = isinstance(first, OSError) and first.errno == errno.ENOSPC and not first.filename
        if full or "DataLoader worker" in str(error):
            raise UserError(
                f"the loader's processes failed ({str(first).partition('. ')[0][:200]}): memory or shared "
                "memory, /dev/shm, is full; lower loader.workers or loader.cache_mb, or make room"
            ) from error
        memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not memory and "you tried to allocate" not in str(error):
            raise
        keys = [("loss", "clip_batch"), ("loader", "batch_size"), ("loader", "crop_size")]
        known = [(f"{group}.{key}", config.get(group, {}).get(key)) for group, key in keys]
        settings = ", ".join(f"{name} (now {value})" for name, value in known if value is not None)
        text = reason(error).partition(" If reserved")[0]
        raise UserError(
            f"out of memory: lower {settings}; a larger accumulate makes up for a smaller batch. "
            f"Validation and test take whole images: where they fail, use smaller ones. ({text[:300]})"
        ) from error
