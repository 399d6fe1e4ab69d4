"""Tools for tests, of this project and of plugins."""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach

if TYPE_CHECKING:
    from clipfuse.testing.composing import loss_node
    from clipfuse.testing.examples import example_inputs, part_of, sized
    from clipfuse.testing.loss_contract import LossContract
    from clipfuse.testing.ranks import Ranks
    from clipfuse.testing.short_training import ShortTraining, build_loss

__all__ = ["LossContract", "Ranks", "ShortTraining", "build_loss", "example_inputs", "loss_node", "part_of"]
__all__ += ["sized"]
# pytest, which `loss_contract` needs, is no dependency of the package but its extra `testing`.
__getattr__, __dir__ = attach(
    __name__,
    {
        "composing": ("loss_node",),
        "examples": ("example_inputs", "part_of", "sized"),
        "loss_contract": ("LossContract",),
        "ranks": ("Ranks",),
        "short_training": ("ShortTraining", "build_loss"),
    },
)
