"""Bi-level optimisation in plain torch; knows nothing of images."""

from clipfuse.bilevel.alternate import Alternate
from clipfuse.bilevel.descent import LowerOptimizer
from clipfuse.bilevel.gauss_newton import GaussNewton
from clipfuse.bilevel.joint import Joint
from clipfuse.bilevel.meha import Meha
from clipfuse.bilevel.problem import Backward, BilevelProblem, MovableProblem, Solver, UpperOptimizer
from clipfuse.bilevel.unrolled import OnceDifferentiableError, Unrolled
from clipfuse.bilevel.value_penalty import ValuePenalty

__all__ = [
    "Alternate",
    "Backward",
    "BilevelProblem",
    "GaussNewton",
    "Joint",
    "LowerOptimizer",
    "Meha",
    "MovableProblem",
    "OnceDifferentiableError",
    "Solver",
    "Unrolled",
    "UpperOptimizer",
    "ValuePenalty",
]
