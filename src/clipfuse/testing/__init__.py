"""Tools for tests, of this project and of plugins."""

from typing import TYPE_CHECKING

from clipfuse.lazy import attach

if TYPE_CHECKING:
    from clipfuse.testing.loss_contract import LossContract, example_inputs
    from clipfuse.testing.ranks import Ranks

__all__ = ["LossContract", "Ranks", "example_inputs"]
# pytest, which `loss_contract` needs, is no dependency of the package.
__getattr__, __dir__ = attach(
    __name__, {"loss_contract": ("LossContract", "example_inputs"), "ranks": ("Ranks",)}
)
