"""What a loss raises in the middle of a run, as one line with its name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

import torch

from clipfuse.errors import UserError, reason
from clipfuse.losses.base import FusionLoss
from clipfuse.training.hangs import is_of_a_lost_rank
from clipfuse.types import LossInputs

# `clipfuse.runs.failures` explains these by other remedies.
_OTHERS = ("you tried to allocate", "find_unused_parameters=True", "DataLoader worker")
VALIDATION = "; a validation computes it on whole images, in eval mode and without gradient"


@contextmanager
def named_failures(
    loss: FusionLoss, inputs: LossInputs | None = None, when: str = "", advice: str = ""
) -> Iterator[None]:
    """Turn what a loss raises inside into one line; `UserError`s, a lack of memory and a lost rank pass.

    Args:
        loss: the loss; of joined ones the message names the part that raised.
        inputs: what it was computed on, for the message.
        when: replaces "at update N" in the message.
        advice: end of the message.

    Raises:
        UserError: names the loss, the update, the samples and their size, and the line that raised.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if is_of_a_lost_rank(error) or any(text in str(error) for text in _OTHERS):
            raise
        culprit, line = _culprit(error, loss)
        what = when or ("" if inputs is None else f"at update {inputs.step}")
        if inputs is not None:
            more = f" and {len(inputs.sample_ids) - 4} more" if len(inputs.sample_ids) > 4 else ""
            high, wide = inputs.fused.shape[2:]
            what += f" on samples {', '.join(inputs.sample_ids[:4])}{more} of {wide}x{high} pixels"
        raise UserError(
            f"the loss '{culprit.name}' failed {what}: {type(error).__name__}: {reason(error)[:500]}{line}"
            f"{advice}; traceback.txt in the run folder has the stack"
        ) from error


def _culprit(error: Exception, loss: FusionLoss) -> tuple[FusionLoss, str]:
    """Return the innermost loss on the stack of an error, and the line of its file."""
    file, line = "", ""
    for frame, number in walk_tb(error.__traceback__):
        path, owner = frame.f_code.co_filename, frame.f_locals.get("self")
        if isinstance(owner, FusionLoss) and not path.endswith(_CALLS):
            loss, file = owner, path
        if path == file:
            line = f" ({Path(path).name}, line {number})"
    return loss, line


_CALLS = ("clipfuse/losses/base.py", "torch/nn/modules/module.py")  # which a call of any loss passes
