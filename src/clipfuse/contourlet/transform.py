"""The contourlet transform as a module."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipfuse.contourlet import fourier, spatial, tree
from clipfuse.contourlet.coefficients import (
    ContourletCoefficients,
    check_image,
    check_levels,
    computable,
    flatten,
    gather,
)
from clipfuse.contourlet.filters import FilterBank, check_choice
from clipfuse.ops.padding import crop_to, pad_to_multiple

METHODS = ("fft", "spatial")


class ContourletTransform(nn.Module):
    """Laplacian pyramid and directional filter bank, exact, differentiable, with an exact inverse.

    Do and Vetterli, "The contourlet transform", IEEE TIP 14(12), 2005. Every band is the circular
    convolution of the (padded) image with that band's equivalent filter, sampled on a rectangular
    lattice; on square images this equals the published toolboxes, elsewhere their shears are no maps of
    the torus and this definition takes over (own design). Images whose sides `multiple` does not
    divide are padded at the bottom and right by repeating the border, and cut again by `inverse`.

    The module has no parameters and no buffers: filters are kept in float64, whatever `.float()` or
    `.half()` do to their surroundings. Bands have the image's type; float16 and bfloat16 images are computed
    and returned in float32, also under autocast.

    Args:
        levels: depth of the directional tree per level, coarse to fine; depth l gives 2**l wedges, 0 a
            critically sampled wavelet level. (0, 3, 3, 3) has a redundancy of 1.328125.
        pyramid_filter: "maxflat" or "9-7".
        directional_filter: "dmaxflat4" to "dmaxflat7"; higher is sharper and longer.
        method: "fft" computes in the frequency domain; "spatial" by convolutions, with plain
            operators, for `torch.export`, at some 30 times the time and 20 times the memory. Same values
            but for rounding.
        compat: "published" repeats a defect of the released PromptFusion code, for networks trained
            with it: its modulation multiplies a filter by one sign instead of an alternating one, so that
            both fan filters stay low-pass. Its "directional" bands are sheared lowpass bands without
            selectivity, and no inverse exists.

    Attributes:
        levels: as given.
        multiple: what images are padded to a multiple of; also the smallest side they may have.

    Raises:
        ValueError: an argument is not one of the above.
    """

    def __init__(
        self,
        levels: Sequence[int] = (0, 3, 3, 3),
        pyramid_filter: str = "maxflat",
        directional_filter: str = "dmaxflat7",
        method: str = "fft",
        compat: str | None = None,
    ) -> None:
        super().__init__()
        self.levels = check_levels(levels)
        if compat is not None:
            check_choice("compat", compat, ("published",))
        self.bank = FilterBank(pyramid_filter, directional_filter, published=compat == "published")
        self.multiple = tree.multiple(self.levels)
        self.use(method)

    def use(self, method: str) -> None:
        """Compute by `method` from now on; values stay the same but for rounding.

        Raises:
            ValueError: there is no such method.
        """
        check_choice("method", method, METHODS)
        self.method = method
        self._filters = spatial.SpatialFilters.build(self.bank, self.levels) if method == "spatial" else None

    def prepare_export(self) -> None:
        """Compute by convolutions, which ONNX can express; `networks.export` calls this."""
        self.use("spatial")

    def forward(self, image: Tensor) -> ContourletCoefficients:
        """Analyse (N, C, H, W), each plane by itself.

        Raises:
            ValueError: not a floating-point (N, C, H, W), or a side smaller than `multiple`.
        """
        check_image(image, self.multiple)
        padded = pad_to_multiple(computable(image), self.multiple)
        planes = padded.flatten(0, 1)
        with torch.autocast(image.device.type, enabled=False):
            if self._filters is not None:
                bands = spatial.analyse(planes, self.levels, self._filters)
            else:
                bands = fourier.analysis(planes, self.levels, *fourier.operator_names(self.bank), "analysis")
        return gather(bands, self.levels, (image.shape[0], image.shape[1]), (image.shape[2], image.shape[3]))

    def inverse(self, coefficients: ContourletCoefficients) -> Tensor:
        """Reconstruct (N, C, H, W) of `coefficients.size`; exact for what `forward` returned.

        Raises:
            ValueError: the bands do not fit `levels` and `size`, or `compat` is "published".
        """
        if self.bank.published:
            raise ValueError('compat="published" has no inverse: both of its channels are low-pass')
        rows, columns = (side + -side % self.multiple for side in coefficients.size)
        bands = flatten(coefficients, self.levels, fourier.band_shapes(self.levels, (rows, columns)))
        with torch.autocast(bands[0].device.type, enabled=False):
            if self._filters is not None:
                planes = spatial.synthesise(bands, self.levels, self._filters)
            else:
                planes = fourier.synthesis(
                    bands, self.levels, *fourier.operator_names(self.bank), "synthesis"
                )
        return crop_to(planes.unflatten(0, tuple(coefficients.lowpass.shape[:2])), coefficients.size)

    def extra_repr(self) -> str:
        """The arguments, for `print`."""
        filters = self.bank.pyramid, self.bank.directional
        return f"levels={self.levels}, filters={filters}, method={self.method}"
