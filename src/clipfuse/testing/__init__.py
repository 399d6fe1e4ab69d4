"""Tools for tests, of this project and of plugins."""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach

if TYPE_CHECKING:
    from clipfuse.testing.composing import loss_node
    from clipfuse.testing.examples import example_inputs, part_of, sized
    from clipfuse.testing.loss_contract import LossContract
    from clipfuse.testing.ranks import Ranks

__all__ = ["LossContract", "Ranks", "example_inputs", "loss_node", "part_of", "sized"]
# pytest, which `loss_contract` needs, is no dependency of the package but its extra `testing`.
__getattr__, __dir__ = attach(
    __name__,
    {
        "composing": ("loss_node",),
        "examples": ("example_inputs", "part_of", "sized"),
        "loss_contract": ("LossContract",),
        "ranks": ("Ranks",),
    },
)
