"""Fidelity whose weights are chosen for each pair by a text about its degradation."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from kornia.filters import spatial_gradient
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.similarity import cosine
from clipfuse.errors import UserError, did_you_mean
from clipfuse.losses.base import FusionLoss, require
from clipfuse.ops.color import linear_rgb
from clipfuse.ops.sending import send
from clipfuse.types import LossInputs, LossOutput

_LOSS = "text_weights"
WINDOW, SIGMA = 48, 1.5
_REACH = 13  # taps of the window: those further away are below 2e-16 of the sum of all
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One row of the table: for which texts, and with which weights.

    Attributes:
        texts: words or phrases, of which a caption of this row contains one.
        intensity: weight of the distance to the brighter source.
        ssim: weight of 1 - SSIM with each source.
        gradient: weight of the distance to the stronger gradient.
        to_visible: weight of the distance to the visible luma.
        to_infrared: weight of the distance to the infrared image.
        squared: distances of values are squared; those of gradients and chroma are not.
    """

    texts: Sequence[str] = ()
    intensity: float = 0.0
    ssim: float = 0.0
    gradient: float = 0.0
    to_visible: float = 0.0
    to_infrared: float = 0.0
    squared: bool = False


_WEIGHTS = tuple(each.name for each in fields(Row) if each.name not in ("texts", "squared"))


class TextWeightsLoss(FusionLoss):
    """Maximum intensity, SSIM, maximum gradient and chroma, weighted for each pair by its caption.

    For one pair, with a, b, g, v, i the weights of its row:

    total = a d(F, M) + b (2 - SSIM(F, V) - SSIM(F, I)) + g sum_k mean|s_k(f) - max(s_k(I), s_k(V))|
          + w_d (v d(f, V) + i d(f, I)) + w_c (mean|Cb - Cb_V| + mean|Cr - Cr_V|)

    and the mean over pairs. f is the fused luma, F the fused image in RGB, V the visible one in RGB or luma;
    M is the infrared image where it is brighter than the mean of the visible channels, else V; d is the mean
    of |.|, or of (.)^2 in a row that is `squared`; s_x, s_y are absolute Sobel responses, the border
    repeated. SSIM has a Gaussian window of 48 taps and sigma 1.5, where it lies within the image; its
    constants are 0.01^2 and 0.03^2. The chroma term is 0 where the network keeps the visible chroma;
    `backbone.chroma=true` learns it.

    The window is even: it is centred on its tap 24, so that the outermost 24 rows at the top (columns at the
    left) and 23 at the bottom (right) are centre of none. Of sides below 48 the shorter one is the window's
    size, as in the release's own function for a window that is not given; it never pads.

    Source: Text-IF (Yi et al., CVPR 2024), its release (53bacd6) with its table, and ControlFusion (NeurIPS
    2025), whose weights are those of `low_light` for every pair. The terms equal the release's, which is
    checked against a written-out loop. What differs:

    - The release's targets are enhanced images beside the degraded ones that its network gets; our data have
      none, so that the sources themselves are the targets. It names each degradation by a label; here a
      caption is looked up.
    - RGB is linear in luma and chroma and not cut to [0, 1], as the network returns luma and chroma. In
      `planes=luma`, F and M are luma: where infrared is brighter, the release's M is gray, so that its first
      term pulls against the chroma term there.
    - The release shows the auxiliary term (v, i) as removable: `auxiliary_weight=0` leaves it out.

    A caption belongs to the row of the longest text that it contains, as whole words, whatever the case and
    punctuation; of texts of one length to the first row. With a `clip` a caption that contains none belongs
    to the row with the text nearest to it (cosine). All others, and pairs without a caption, get `default`.

    `terms` has the terms without weights, and `share_ROW`, the share of pairs of each row.

    Args:
        rows: the table, by name: see `Row`; a row of None is left out.
        default: name of the row of all other pairs.
        chroma_weight: w_c, 0 or more.
        auxiliary_weight: w_d, 0 or more.
        planes: in which the intensity and the SSIM with the visible image are taken, `rgb` or `luma`.
        strict: refuse a caption of no row in place of giving it `default`.
        clip: compares the captions of no row with the texts; None: they are of no row.

    Raises:
        ValueError: a row has an unknown key, no weight above 0 or a weight that is no number; `default` names
            no row; a text stands in two rows.
    """

    reads = frozenset({"captions"})

    def __init__(
        self,
        rows: Mapping[str, Mapping[str, Any] | None],
        default: str = "low_light",
        chroma_weight: float = 12.0,
        auxiliary_weight: float = 1.0,
        planes: Literal["rgb", "luma"] = "rgb",
        strict: bool = False,
        clip: FrozenClip | None = None,
    ) -> None:
        super().__init__()
        require(_LOSS, 0, chroma_weight=chroma_weight, auxiliary_weight=auxiliary_weight)
        self.rows = {name: _read_row(name, row) for name, row in rows.items() if row is not None}
        if default not in self.rows:
            raise ValueError(
                f"{_LOSS} loss: default is {default!r}, which is no row.{did_you_mean(default, self.rows)} "
                f"Rows: {', '.join(self.rows) or 'none'}"
            )
        if planes not in ("rgb", "luma"):
            raise ValueError(f"{_LOSS} loss: planes is {planes!r}; expected rgb or luma")
        self.default, self.planes, self.strict = default, planes, strict
        self.chroma_weight, self.auxiliary_weight = chroma_weight, auxiliary_weight
        self._texts: dict[str, str] = {}
        for name, row in self.rows.items():
            for text in row.texts:
                if (other := self._texts.setdefault(_words(text), name)) != name:
                    raise ValueError(f"{_LOSS} loss: {text!r} is a text of {other} and of {name}; keep one")
        self._by_length = sorted(self._texts, key=len, reverse=True)
        self._known: dict[str, str] = {}
        if clip is not None:
            self.clip = clip
        scales = {"to_visible": auxiliary_weight, "to_infrared": auxiliary_weight}
        weights = [[getattr(r, name) * scales.get(name, 1) for name in _WEIGHTS] for r in self.rows.values()]
        for name, row_weights in zip(self.rows, weights, strict=True):
            if not any(row_weights):
                raise ValueError(f"{_LOSS} loss: all weights of rows.{name} are 0; set one above 0")
        self._weights: Tensor
        self.register_buffer("_weights", torch.tensor(weights, dtype=torch.float64), persistent=False)
        self._used = {name for place, name in enumerate(_WEIGHTS) if any(row[place] for row in weights)}

    def notices(self, steps: int) -> list[str]:
        """Name what has no effect beside a CLIP, or beside a table without auxiliary term."""
        found = super().notices(steps)
        if hasattr(self, "clip"):
            found += self.unused("with a clip every caption has a nearest row", "strict")
        if not any(row.to_visible or row.to_infrared for row in self.rows.values()):
            found += self.unused("no row has to_visible or to_infrared", "auxiliary_weight")
        return found

    def setup(self, sample: LossInputs) -> None:
        """Warn where the data have no captions: one row is used for all pairs."""
        super().setup(sample)
        if sample.captions is None and len(self.rows) > 1:
            log.warning(
                "%s loss: the data have no captions, so that every pair gets the weights of '%s'; "
                "data.captions names a table of them",
                *(_LOSS, self.default),
            )

    def row_of(self, caption: str, sample: str = "") -> str:
        """Return the name of the row of a caption.

        Raises:
            UserError: it is of none, and `strict`; names the sample and the caption.
        """
        if caption not in self._known:
            self._known[caption] = self._contained(caption) or self._nearest(caption) or ""
        if not self._known[caption] and self.strict:
            raise UserError(
                f"{sample}: its caption {caption!r} contains no text of {self.place}.rows, such as "
                f"{', '.join(map(repr, list(self._texts)[:4]))}; add one of its words to the texts of a "
                f"row, or set {self.place}.strict=false to give it the row '{self.default}'"
            )
        return self._known[caption] or self.default

    def _contained(self, caption: str) -> str | None:
        words = f" {_words(caption)} "
        return next((self._texts[text] for text in self._by_length if f" {text} " in words), None)

    def _nearest(self, caption: str) -> str | None:
        if not hasattr(self, "clip") or not caption.strip():
            return None
        embedded = self.clip.encode_text([caption, *self._texts], truncate=True)
        return list(self._texts.values())[int(cosine(embedded[1:], embedded[0]).argmax())]

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the mean over pairs of their weighted sums."""
        names, captions = list(self.rows), inputs.captions
        chosen = [
            names.index(self.default if captions is None else self.row_of(captions[place], sample))
            for place, sample in enumerate(inputs.sample_ids)
        ]
        squares, fused = [self.rows[names[place]].squared for place in chosen], inputs.fused
        squared = send(torch.tensor(squares), fused.device).view(-1, 1, 1, 1) if any(squares) else None
        terms = self._terms(inputs, squared)
        weights = self._weights[send(torch.tensor(chosen), fused.device)].to(fused)
        parts = [weights[:, place] * terms[name] for place, name in enumerate(_WEIGHTS) if name in terms]
        if self.chroma_weight:
            terms["chroma"] = _distance(inputs.fused_chroma, inputs.chroma) * 2  # a sum over Cb and Cr
            parts.append(self.chroma_weight * terms["chroma"])
        shares = {
            f"share_{name}": fused.new_full((), chosen.count(place) / len(chosen))
            for place, name in enumerate(names)
        }
        total = torch.stack(parts).sum(0).mean()
        return LossOutput(total, {name: term.mean().detach() for name, term in terms.items()} | shares)

    def _terms(self, inputs: LossInputs, squared: Tensor | None) -> dict[str, Tensor]:
        """Return the terms that some row weighs, each (N,)."""
        fused, infrared, visible = inputs.fused, inputs.infrared, inputs.visible
        image, source = fused, visible
        if self.planes == "rgb":
            image, source = linear_rgb(fused, inputs.fused_chroma), linear_rgb(visible, inputs.chroma)
        terms: dict[str, Tensor] = {}
        if "intensity" in self._used:
            brighter = torch.where(infrared > source.mean(1, keepdim=True), infrared, source)
            terms["intensity"] = _distance(image, brighter, squared)
        if "ssim" in self._used:
            terms["ssim"] = 2 - ssim(image, source) - ssim(fused, infrared)
        if "gradient" in self._used:
            f, i, v = (spatial_gradient(each, normalized=False).abs() for each in (fused, infrared, visible))
            terms["gradient"] = _distance(f, i.maximum(v)) * 2  # a sum over x and y
        for name, plane in {"to_visible": visible, "to_infrared": infrared}.items():
            if name in self._used:
                terms[name] = _distance(fused, plane, squared)
        return terms


def _distance(first: Tensor, second: Tensor, squared: Tensor | None = None) -> Tensor:
    error = (first - second).abs()
    if squared is not None:
        error = torch.where(squared, error.square(), error)
    return error.flatten(1).mean(1)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean SSIM over pixels and channels, (N,), of (N, C, H, W); see `TextWeightsLoss`."""
    height, width = first.shape[-2:]
    size = min(WINDOW, height, width)
    low, high = max(size // 2 - _REACH, 0), min(size // 2 + _REACH + 1, size)
    taps = [math.exp(-((tap - size // 2) ** 2) / (2 * SIGMA**2)) for tap in range(low, high)]
    window = first.new_tensor(taps) / sum(taps)
    x, y = (
        plane.flatten(0, 1)[:, None, low : height - size + high, low : width - size + high]
        for plane in (first, second)
    )
    # As a product with banded matrices a tenth of the time of conv2d, forward and backward, on a processor.
    down, across = (_band(window, side) for side in x.shape[-2:])
    moments = down @ torch.cat([x, y, x * x, y * y, x * y]) @ across.T
    x_mean, y_mean, x_square, y_square, product = moments.chunk(5)
    covariance = product - x_mean * y_mean
    variances = x_square - x_mean.square() + y_square - y_mean.square()
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * x_mean * y_mean + c1) / (x_mean.square() + y_mean.square() + c1)
    found = luminance * (2 * covariance + c2) / (variances + c2)
    return found.view(len(first), -1).mean(1)


def _band(window: Tensor, side: int) -> Tensor:
    """Return (side - taps + 1, side): each row is the window, one place further than in the row above."""
    count = len(window)
    places = torch.arange(side, device=window.device)
    offsets = places - places[: side - count + 1, None]
    return torch.where((offsets >= 0) & (offsets < count), window[offsets.clamp(0, count - 1)], 0.0)


def _words(text: str) -> str:
    """Return a text in small letters, its words parted by one blank: "Low-light" and "low_light" are one."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def _read_row(name: str, given: Mapping[str, Any]) -> Row:
    known = [each.name for each in fields(Row)]
    for key in given:
        if key not in known:
            raise ValueError(
                f"{_LOSS} loss: rows.{name} has an unknown key {key!r}.{did_you_mean(str(key), known)} Keys: "
                f"{', '.join(known)}"
            )
    texts = given.get("texts", ())
    if isinstance(texts, str) or not all(isinstance(text, str) and _words(text) for text in texts):
        raise ValueError(f"{_LOSS} loss: rows.{name}.texts is {texts!r}; expected a list of words or phrases")
    row = Row(**{**given, "texts": tuple(texts)})
    for key in _WEIGHTS:
        weight = getattr(row, key)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"{_LOSS} loss: rows.{name}.{key} is {weight!r}; expected a number")
    require(_LOSS, 0, **{f"rows.{name}.{key}": getattr(row, key) for key in _WEIGHTS})
    if not isinstance(row.squared, bool):
        raise ValueError(f"{_LOSS} loss: rows.{name}.squared is {row.squared!r}; expected true or false")
    return row
