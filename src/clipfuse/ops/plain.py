"""Tensors that outlive the mode in which they were first needed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Make ordinary CPU tensors, whatever default device, inference or gradient mode surrounds the block.

    For everything that is cached: a tensor made in inference mode could not serve in a later backward pass.
    """
    with torch.device("cpu"), torch.inference_mode(False), torch.no_grad():
        yield
