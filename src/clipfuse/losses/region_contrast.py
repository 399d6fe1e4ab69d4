"""In each region the fused image should look like the source that stands out there, not like the other."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.perceptual import usual_layers
from clipfuse.errors import UserError
from clipfuse.losses.base import FusionLoss, LossArtifacts, named_errors, require
from clipfuse.ops.clusters import clusters
from clipfuse.ops.ranks import mean_over_ranks
from clipfuse.ops.regions import (
    above_otsu,
    labelled_regions,
    local_contrast,
    region_means,
    saliency,
    split,
)
from clipfuse.ops.seeding import derived_seed
from clipfuse.ops.vgg import FrozenFeatures, layers_of
from clipfuse.types import LossInputs, LossOutput

_LOSS = "region_contrast"
Kind = Literal["clusters", "labels", "targets", "otsu", "saliency"]
Network = Literal["clip", "vgg16", "vgg19"]
Rule = Literal["contrast", "brightness", "infrared", "visible"]


class RegionContrastLoss(FusionLoss):
    """A fidelity loss plus, over regions, the ratio of feature distances to the salient and the other source.

    total = fidelity + w mean_n mean_k log(1 + (D_k(F, P_k) + e) / (D_k(F, Q_k) + e))

    Of the two sources P_k is the salient one in region k, Q_k the other. D_k is the mean over layers, and
    over the places of a layer that lie in the region, of |u(F) - u(S)|^2, u being the features of the whole
    image with each place made a unit vector over channels; so it is from 0 to 4 for any network. The mean
    over k is one over the regions of an image, that over n one over the images, of all ranks, that have any.

    Regions are

    - `clusters`: k-means of the sources' features in CLIP's image tower, a cluster a region;
    - `labels`: the classes of the data, a class a region; pixels without one lie in none;
    - `targets`: the data's target mask, and the rest;
    - `otsu`: the infrared image above its threshold of Otsu, and the rest;
    - `saliency`: the same of its distance from its own mean.

    Source: SAGE (CVPR 2025; release 377fdbe), which sums D(F m, P m) / D(F m, Q m) over masks m of SAM with
    instance-normed features of SAM; and OCCO (IJCV; release 1c22560), d(F, P) / sum d(F, Q) over regions of
    objects with a contextual distance in VGG19. What differs is our own design: no SAM; features of the whole
    image, so that a region costs no pass of the network, where the releases mask the image; unit vectors in
    place of the instance norm, which is not defined where a channel is constant; and log(1 + ratio), as in
    `clip_ratio`, in place of the ratio: both fall with it, but its slope is bounded by 1 / (D(F, Q) + e), and
    more distance to Q gains less and less. Equal sources give log 2 and no gradient.

    Which source is salient is our own rule, too, where the releases take it from the masks of each band:
    `contrast`, the larger mean standard deviation in 7x7 pixels; `brightness`, the larger mean level;
    or always the same source.

    Args:
        clip: the CLIP whose image tower gives features, and clusters.
        fidelity: another loss; OCCO's is 1 - SSIM, 10 (MSE to the visible image and L1 to the infrared one
            where it is brighter) and gradients, for which `pixel` stands by default.
        regions: the kind of regions.
        features: network of u: `clip`, or `vgg16` or `vgg19` after the activation.
        layers: names of its layers; None: conv2_1, conv3_1 and conv4_2 of a VGG, layer1 to layer3 of a CLIP
            ResNet, at a quarter, a half and three quarters of a ViT.
        features_weights: file of the VGG's weights, as in `FrozenFeatures`; None downloads.
        salient: the rule for the salient source.
        weight: w, 0 or more.
        clusters: regions of an image with `regions=clusters`, 2 or more.
        least_share: regions with less than this share of the image's pixels do not count; in [0, 1).
        eps: e, above 0.

    Raises:
        ValueError: an argument out of range, a layer that the network does not have, a CLIP without features
            of its tower, or weights that cannot be loaded.
    """

    def __init__(
        self,
        clip: FrozenClip,
        fidelity: FusionLoss,
        regions: Kind = "clusters",
        features: Network = "clip",
        layers: Sequence[str] | None = None,
        features_weights: str | None = None,
        salient: Rule = "contrast",
        weight: float = 1.0,
        clusters: int = 6,
        least_share: float = 0.005,
        eps: float = 0.05,
    ) -> None:
        super().__init__()
        choices = {"regions": (regions, Kind), "features": (features, Network), "salient": (salient, Rule)}
        for name, (value, kinds) in choices.items():
            if value not in get_args(kinds):
                raise ValueError(
                    f"{_LOSS} loss: {name} is {value!r}; expected one of {', '.join(get_args(kinds))}"
                )
        require(_LOSS, 0, weight=weight)
        require(_LOSS, 2, clusters=clusters)
        if not 0 <= least_share < 1 or not 0 < eps <= 4:
            raise ValueError(
                f"{_LOSS} loss: least_share is {least_share} and eps {eps}; expected 0 or more, below 1, and "
                "above 0, at most 4"
            )
        self.clip, self.fidelity = clip, fidelity
        self.regions, self.features, self.salient = regions, features, salient
        self.weight, self.clusters, self.least_share, self.eps = weight, clusters, least_share, eps
        self.features_weights = features_weights
        known = clip.feature_layers if features == "clip" else tuple(layers_of(features))
        if (features == "clip" or regions == "clusters") and not clip.feature_layers:
            raise ValueError(
                f"{_LOSS} loss: {clip} gives no features of its image tower; set {self.place}.features=vgg16 "
                f"and {self.place}.regions=otsu"
            )
        self.layers = tuple(layers) if layers is not None else usual_layers(known, features)
        if not self.layers or not set(self.layers) <= set(known):
            raise ValueError(
                f"{_LOSS} loss: layers are {', '.join(self.layers) or 'none'}; expected some of "
                f"{', '.join(known)}"
            )
        self.vgg: FrozenFeatures | None = None
        if features != "clip":
            with named_errors(f"{_LOSS} loss"):
                self.vgg = FrozenFeatures(features_weights, features, max(self.layers, key=known.index))

    def required(self) -> dict[str, str]:
        """Add the classes where they are the regions."""
        return super().required() | ({"classes": self.name} if self.regions == "labels" else {})

    def setup(self, sample: LossInputs) -> None:
        """Refuse data without the masks that `regions` needs, and images too small for a VGG."""
        super().setup(sample)
        if self.regions == "targets" and sample.target_mask is None:
            raise ValueError(
                f"{_LOSS} loss: regions=targets needs data with target masks (data.masks, or data.labels); "
                f"take {self.place}.regions=otsu"
            )
        height, width = sample.fused.shape[-2:]
        if self.vgg is not None and min(height, width) < 16:
            raise ValueError(
                f"{_LOSS} loss: {self.features} needs crops of 16 px or more, got {height}x{width}"
            )

    def notices(self, steps: int) -> list[str]:
        """Name what was set for other regions or another network."""
        found = super().notices(steps)
        if not self.weight:
            found.append(f"{self.place}.weight=0: the network is trained by the fidelity alone")
        if self.regions != "clusters":
            found += self.unused(f"regions is {self.regions}", "clusters")
        return found + (self.unused("features is clip", "features_weights") if self.vgg is None else [])

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the sum.

        `terms` beside those of the fidelity: `contrast`, the mean over regions; `salient_distance` and
        `other_distance`, means of D; `infrared_share`, of the regions those whose salient source is infrared;
        and `regions`, their mean number.
        """
        both = torch.cat([inputs.infrared, inputs.visible])
        with torch.no_grad():
            sources = self._units(both)
            regions = self._regions(inputs, both)
            warm = self._warm(inputs, regions)
            counts = (regions.flatten(2).double().mean(2) >= max(self.least_share, 1e-12)).to(
                sources[0].dtype
            )
        distances = region_distances(self._units(inputs.fused), sources, regions)
        salient, other = (torch.where(mask, *distances) for mask in (warm, ~warm))
        ratios = torch.log1p((salient + self.eps) / (other + self.eps))
        number = counts.sum(1)
        images = (ratios * counts).sum(1) / number.clamp(min=1)
        contrast = mean_over_ranks(images, (number > 0).sum(), self.training)
        fidelity = self.fidelity(inputs)
        total = fidelity.total + self.weight * contrast.to(fidelity.total.dtype)
        named = {"salient_distance": salient, "other_distance": other, "infrared_share": warm.to(counts)}
        means = {name: (each * counts).sum() / counts.sum().clamp(min=1) for name, each in named.items()}
        terms = {"contrast": contrast, **means, "regions": number.mean()}
        return LossOutput(total, dict(fidelity.terms) | {name: each.detach() for name, each in terms.items()})

    @torch.no_grad()
    def artifacts(self, inputs: LossInputs) -> LossArtifacts:
        """Return the regions of one image as gray levels, and where the infrared band is the salient one."""
        regions = self._regions(inputs, torch.cat([inputs.infrared, inputs.visible]))
        warm, own = self._warm(inputs, regions)[0], regions[0].to(inputs.fused.dtype)
        levels = torch.linspace(1, 0, len(own)).to(own)
        maps = {"regions": levels, "infrared is salient": warm.to(own)}
        drawn = [(name, (own * each[:, None, None]).sum(0, keepdim=True)) for name, each in maps.items()]
        there = regions[0].flatten(1).any(1)
        text = f"{int((warm & there).sum())} of {int(there.sum())} regions"
        return LossArtifacts({"infrared is salient in": text}, [("fused", inputs.fused[0]), *drawn])

    def _units(self, images: Tensor) -> list[Tensor]:
        """Return the features of images (N, 1, H, W) by layer, each place of length 1, (N, C, h, w)."""
        if self.vgg is not None:
            found = self.vgg(images, self.layers)
        else:
            found = self.clip.image_features(images, self.layers, resize="squash")
        return [_unit(each) for each in found.values()]

    def _regions(self, inputs: LossInputs, both: Tensor) -> Tensor:
        """Return the regions, (N, K, H, W) bool, from the inputs and their sources, infrared first."""
        if self.regions == "labels":
            if inputs.classes is None:
                raise UserError(f"{_LOSS} loss: regions=labels, and a batch has no maps of classes")
            return labelled_regions(inputs.classes)
        if self.regions == "targets":
            if inputs.target_mask is None:
                raise UserError(f"{_LOSS} loss: regions=targets, and a batch has no target masks")
            return split(inputs.target_mask)
        if self.regions == "otsu":
            return split(above_otsu(inputs.infrared))
        if self.regions == "saliency":
            return split(above_otsu(saliency(inputs.infrared)))
        layer = usual_layers(self.clip.feature_layers, "clip")[-1]
        found = _unit(self.clip.image_features(both, [layer], resize="squash")[layer])
        vectors = torch.cat(found.chunk(2), 1).flatten(2).transpose(1, 2)
        seeds = [derived_seed(inputs.seed, inputs.step, "regions", name) for name in inputs.sample_ids]
        maps = clusters(vectors, self.clusters, seeds).view(-1, 1, *found.shape[-2:])
        large = torch.nn.functional.interpolate(
            maps.to(found.dtype), inputs.fused.shape[-2:], mode="nearest-exact"
        )
        return torch.nn.functional.one_hot(large.long().squeeze(1), self.clusters).movedim(-1, 1).bool()

    def _warm(self, inputs: LossInputs, regions: Tensor) -> Tensor:
        """Return in which regions the infrared image is the salient source, (N, K) bool."""
        if self.salient in ("infrared", "visible"):
            return torch.full(regions.shape[:2], self.salient == "infrared", device=regions.device)
        planes = (inputs.infrared, inputs.visible)
        if self.salient == "contrast":
            planes = (local_contrast(inputs.infrared), local_contrast(inputs.visible))
        infrared, visible = (region_means(plane.squeeze(1), regions) for plane in planes)
        return infrared >= visible


def region_distances(
    fused: Sequence[Tensor], sources: Sequence[Tensor], regions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the distance of the fused images to the infrared and to the visible ones, (N, K) each.

    Args:
        fused: features by layer, (N, C, h, w), each place of length 1.
        sources: the same of the sources, (2N, C, h, w), infrared first.
        regions: (N, K, H, W) bool.

    Returns:
        Means over layers of the means over regions of squared distances, from 0 to 4; 0 in empty regions.
    """
    found = []
    for own, both in zip(fused, sources, strict=True):
        squares = (own.unsqueeze(0) - both.unflatten(0, (2, -1))).square().sum(2)
        found.append(torch.stack([region_means(each, regions) for each in squares]))
    infrared, visible = torch.stack(found).mean(0)
    return infrared, visible


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
