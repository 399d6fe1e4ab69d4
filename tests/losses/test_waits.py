"""An update makes the host wait for a GPU once, whatever the loss and the solver."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from clipfuse.bilevel import Alternate, GaussNewton, Solver, ValuePenalty
from clipfuse.ops import sending
from clipfuse.testing.loss_contract import build_loss, example_inputs
from clipfuse.testing.short_training import ShortTraining
from clipfuse.testing.waits import HostWaits

SGD = partial(torch.optim.SGD, lr=1e-3)
PROMPTS = ("promptfusion", "loss.warmup=0", "loss.fidelity.decomposition_weight=0")
CASES: dict[str, tuple[tuple[str, ...], Callable[[], Solver | None]]] = {
    "pixel": (("pixel",), lambda: None),
    "ldfusion": (("ldfusion",), lambda: None),
    "clip_ratio": (("clip_ratio",), lambda: None),
    "autofuse": (("autofuse", "loss.patch_side=[0.4,0.8]"), lambda: None),
    "region_contrast": (("region_contrast",), lambda: None),
    "text_weights": (("text_weights",), lambda: None),
    "reward": (("reward",), lambda: None),
    "adversarial": (("adversarial",), lambda: Alternate(SGD, steps=1, every=9)),
    "task": (("task",), lambda: Alternate(SGD, steps=1, every=9)),
    "alternate": (PROMPTS, lambda: Alternate(SGD, steps=1, every=9)),
    "gauss_newton": (PROMPTS, lambda: GaussNewton(SGD, steps=1, every=9)),
    "value_penalty": (PROMPTS, lambda: ValuePenalty(SGD, z_steps=1, y_steps=1, every=9)),
}
"""A loss with the overrides it needs, and the solver; the lower level is solved in the first update alone."""


@pytest.mark.parametrize("name", CASES)
def test_an_update_makes_the_host_wait_once(
    name: str, loss_node: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (loss_name, *words), solver = CASES[name]
    node = loss_node(loss_name, *words)
    totals, found = [], {}
    for free in (True, False):  # as on a CPU, then as on a GPU: the same loss
        monkeypatch.setattr(sending, "reads_freely", lambda device, free=free: free)
        loss, inputs = build_loss(node).train(), example_inputs()
        loss.setup(inputs)
        torch.manual_seed(0)
        training = ShortTraining(loss, inputs, solver())
        with HostWaits() as waits:
            training.update()  # fills caches, and solves the lower level
            waits.found.clear()
            totals.append(training.update())
        found = dict(waits.found)
    assert found == {"tolist": 1}
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)  # float32, sums of patches in another order
