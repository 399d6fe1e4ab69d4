"""What fails in the middle of a run through no mistake of the program, said in one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from clipfuse.errors import UserError


@contextmanager
def memory_explained(config: Mapping[str, Any]) -> Iterator[None]:
    """Turn running out of memory, of a GPU or of the machine, into advice.

    Args:
        config: the run's whole configuration in plain types.

    Raises:
        UserError: names the settings to lower and what they are.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "you tried to allocate" not in str(
            error
        ):
            raise
        keys = [("loss", "clip_batch"), ("loader", "batch_size"), ("loader", "crop_size")]
        known = [(f"{group}.{key}", config.get(group, {}).get(key)) for group, key in keys]
        settings = ", ".join(f"{name} (now {value})" for name, value in known if value is not None)
        reason = " ".join(str(error).split()).partition(" If reserved")[0] or type(error).__name__
        raise UserError(
            f"out of memory: lower {settings}; a larger accumulate makes up for a smaller batch. "
            f"Validation and test take whole images: where they fail, use smaller ones. ({reason[:300]})"
        ) from error
