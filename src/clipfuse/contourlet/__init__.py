"""The contourlet transform, exact, fast and differentiable, and its shift-invariant form."""

from clipfuse.contourlet.coefficients import ContourletCoefficients
from clipfuse.contourlet.nonsubsampled import NonsubsampledContourlet
from clipfuse.contourlet.transform import ContourletTransform

__all__ = ["ContourletCoefficients", "ContourletTransform", "NonsubsampledContourlet"]
