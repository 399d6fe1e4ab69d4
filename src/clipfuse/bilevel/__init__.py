"""Bi-level optimisation in plain torch; knows nothing of images."""

from clipfuse.bilevel.joint import Joint
from clipfuse.bilevel.problem import Backward, BilevelProblem, Solver, UpperOptimizer

__all__ = ["Backward", "BilevelProblem", "Joint", "Solver", "UpperOptimizer"]
