"""What is handed to processes, and the end of one that was killed; test_evaluation.py starts some."""

import pickle
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from clipfuse.downstream.base import Example
from clipfuse.downstream.evaluation import LOST
from clipfuse.processes import Workers, packed, workers
from clipfuse.types import Boxes


def test_examples_arrive_as_they_were_and_share_no_memory_with_torch() -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4).expand(3, 3, 4)  # not contiguous
    boxes = Boxes(torch.tensor([[0.5, 1, 2, 3]]), torch.tensor([1]))
    example = Example("a", "scene", image, image[0], boxes)
    sent = packed([example])
    assert b"torch.storage" not in sent
    (read,) = pickle.loads(sent)
    assert (read.name, read.scene) == ("a", "scene")
    assert read.image.equal(image)
    assert read.image.is_contiguous()
    assert read.classes.equal(image[0])
    assert read.boxes.xyxy.equal(boxes.xyxy)
    read.image.zero_()  # it may be written to


def test_a_killed_process_is_one_line_with_the_remedy(user_error: Any) -> None:
    pool = Workers(2, LOST)
    job: Future[bytes] = Future()
    job.set_exception(BrokenProcessPool())
    assert "lower parallel, and repeat the command" in user_error(pool.result, job)
    pool.stop()


def test_one_at_a_time_is_this_process() -> None:
    with workers(1, LOST) as pool:
        assert pool is None
    with workers(2, LOST) as pool:
        assert isinstance(pool, Workers)
