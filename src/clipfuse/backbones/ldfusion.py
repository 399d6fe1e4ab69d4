"""LDFusion's network: content and style encoders per band, and a decoder that the styles modulate."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.backbones.base import FusionBackbone
from clipfuse.ops.padding import pad_to_multiple
from clipfuse.types import FusionOutput

_MULTIPLE, _SMALLEST = 8, 16  # three halvings need multiples of 8, reflection at an eighth sides of 16
_MARGIN = 10  # rows on the top and columns on the left to cut, out of the 21 that the decoder adds


class LDFusion(FusionBackbone):
    """Both contents pass residual blocks that the styles modulate, and three transposed convolutions.

    The network of LDFusion (Wang et al., arXiv 2402.16267; in the manner of MUNIT and DRIT), parameter for
    parameter. Its decoder returns 8n + 21 pixels for 8n. The release keeps the top-left corner, so that the
    image is shifted by 10.5 pixels to the bottom right and the network must learn to shift it back, and
    clamps tanh to [0, 1], so that every negative output is black and without gradient. Here the middle is
    kept (a shift of half a pixel remains) and the output is (1 + tanh) / 2.

    Args:
        faithful: as in the release, without padding of sizes that 8 does not divide.
        encoder_weights: the authors' `Enc_final.pt`, or another state dict of their encoder.
        decoder_weights: the authors' `Dec_final.pt`; trained with the shift, so that it needs `faithful`.
        chroma: also learn the chroma of the fused image (`ChromaHead`); not with `faithful`.

    Raises:
        ValueError: a file is missing, broken, or holds other weights; decoder weights without `faithful`;
            `chroma` with it.
    """

    def __init__(
        self,
        faithful: bool = False,
        encoder_weights: str | None = None,
        decoder_weights: str | None = None,
        chroma: bool = False,
    ) -> None:
        super().__init__()
        if faithful and chroma:
            raise ValueError(
                "ldfusion: the released network keeps the chroma; leave out backbone.faithful or "
                "backbone.chroma"
            )
        if decoder_weights is not None and not faithful:
            raise ValueError(
                f"the decoder of {decoder_weights} has learned the release's misalignment; set "
                "backbone.faithful=true"
            )
        self.faithful = faithful
        self.encoder = _Encoder()
        self.decoder = _Decoder()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
        if encoder_weights is not None:
            _load(self.encoder, Path(encoder_weights), "encoder", "Enc_final.pt")
        if decoder_weights is not None:
            _load(self.decoder, Path(decoder_weights), "decoder", "Dec_final.pt")
        if chroma:
            self.learn_chroma(256, scale=_MULTIPLE)

    def fuse(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Fuse planes of any size.

        Returns:
            The features `infrared_content` and `visible_content` (N, 128, H/8, W/8), `infrared_style` and
            `visible_style` (N, 8), `fused` (N, 256, H/8, W/8).
        """
        height, width = infrared.shape[-2:]
        multiple = 1 if self.faithful else _MULTIPLE
        multiple = multiple if height >= _SMALLEST and width >= _SMALLEST else _SMALLEST
        infrared, visible = (pad_to_multiple(plane, multiple) for plane in (infrared, visible))
        codes = self.encoder(visible, infrared)
        hidden, full = self.decoder(*codes)
        fused = full.clamp(0, 1) if self.faithful else (1 + full[..., _MARGIN:, _MARGIN:]) / 2
        names = ("visible_content", "infrared_content", "visible_style", "infrared_style")
        features = dict(
            zip(names, (code.squeeze((2, 3)) if code.shape[-1] == 1 else code for code in codes), strict=True)
        )
        return FusionOutput(fused[..., :height, :width], features | {"fused": hidden})


class _Encoder(nn.Module):
    """Module names are the authors': 1 is the visible band, 2 the infrared one."""

    def __init__(self, dim: int = 16, style: int = 8) -> None:
        super().__init__()
        self.content_encoder1 = _Body(_content(dim))
        self.content_encoder2 = _Body(_content(dim))
        self.style_encoder1 = _Body(_style(dim, style))
        self.style_encoder2 = _Body(_style(dim, style))

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            self.content_encoder1(visible),
            self.content_encoder2(infrared),
            self.style_encoder1(visible),
            self.style_encoder2(infrared),
        )


class _Decoder(nn.Module):
    def __init__(self, dim: int = 256, style: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.model_local = nn.Sequential(*(_Residual(dim, adaptive=True) for _ in range(blocks)))
        self.mlp = _Body(
            [
                nn.Linear(style, 256),
                nn.ReLU(),
                nn.Linear(256, 256),
                nn.ReLU(),
                nn.Linear(256, 4 * blocks * dim),
            ]
        )
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.ConvTranspose2d(dim, dim // 2, 5, 2), _LayerNorm(dim // 2), nn.ReLU()]
            dim //= 2
        self.model_up = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(dim, 1, 7), nn.Tanh())

    def forward(self, *codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the modulated content, and the fused image in [-1, 1], 21 pixels too large."""
        content, style = torch.cat(codes[:2], dim=1), torch.cat(codes[2:], dim=1)
        modulation = self.mlp(style.flatten(1)).chunk(len(self.model_local), dim=1)
        for block, part in zip(self.model_local, modulation, strict=True):
            content = block(content, part)
        return content, self.model_up(content)


class _Body(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x)
        return result


class _Residual(nn.Module):
    """Two convolutions with instance norm, whose shift and scale are given if `adaptive`."""

    def __init__(self, dim: int, adaptive: bool = False) -> None:
        super().__init__()
        norms = [_AdaptiveNorm() if adaptive else nn.InstanceNorm2d(dim) for _ in range(2)]
        pads, convs = [nn.ReflectionPad2d(1) for _ in range(2)], [nn.Conv2d(dim, dim, 3) for _ in range(2)]
        self.block = nn.Sequential(pads[0], convs[0], norms[0], nn.ReLU(), pads[1], convs[1], norms[1])

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        hidden, parts = x, iter(()) if modulation is None else iter(modulation.chunk(2, dim=1))
        for layer in self.block:
            hidden = layer(hidden, next(parts)) if isinstance(layer, _AdaptiveNorm) else layer(hidden)
        return x + hidden


class _AdaptiveNorm(nn.Module):
    """Instance norm with (N, 2C) shift and scale (Huang and Belongie, ICCV 2017)."""

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = modulation[..., None, None].chunk(2, dim=1)
        return F.instance_norm(x) * scale + shift


class _LayerNorm(nn.Module):
    """Norm over all of a sample, then shift and scale per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        spread = x.std(dim=(1, 2, 3), keepdim=True) + 1e-5
        return (x - mean) / spread * self.gamma[:, None, None] + self.beta[:, None, None]


def _content(dim: int) -> list[nn.Module]:
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(1, dim, 7), nn.InstanceNorm2d(dim), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(dim, 2 * dim, 4, 2, 1), nn.InstanceNorm2d(2 * dim), nn.ReLU()]
        dim *= 2
    return [*layers, _Residual(dim), _Residual(dim)]


def _style(dim: int, style: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(1, dim, 7), nn.ReLU()]
    for wider in (2 * dim, 4 * dim, 4 * dim):
        layers += [nn.Conv2d(dim, wider, 4, 2, 1), nn.ReLU()]
        dim = wider
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, style, 1)]


def _load(module: nn.Module, path: Path, what: str, usual: str) -> None:
    """Load a state dict of the authors without its running statistics, which no layer uses."""
    expected = f"expected a state dict of LDFusion's {what}, such as the authors' {usual}"
    if not path.is_file():
        raise ValueError(f"no file {path}; {expected}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise ValueError(f"{path} cannot be read as weights; {expected}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no weights; {expected}")
    found = {
        str(name).removeprefix("module."): value
        for name, value in state.items()
        if "running_" not in str(name)
    }
    wanted = module.state_dict()
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found or name not in wanted:
            raise ValueError(f"{path} {'lacks' if name in wanted else 'also holds'} {name}; {expected}")
        if found[name].shape != wanted[name].shape:
            shapes = f"{tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
            raise ValueError(f"{path} holds {name} of shape {shapes}; {expected}")
    module.load_state_dict(found)
