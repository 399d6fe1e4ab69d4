"""What does judging with CLIP cost? Images per second, texts, and a checkpoint with and without it.

The plain alternative is open_clip itself: torch's antialiased resize, the normalisation, the model's own
`encode_image` or `encode_text`, timed in turns with ours. Crops are gray, 96x96, 8 at a time; the
backward is to the crops. The last rows are whole images (480x640, 2 at a time), where the resize counts
most. ViT-B-32 has random weights, which cost as much as any; micro is measured where its weights are.

    OMP_NUM_THREADS=2 python experiments/benchmarks/clip.py [--rounds 7]
"""

import argparse
import copy
import io
import logging
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.loading import Source
from clipfuse.clip.micro_files import load_micro
from clipfuse.clip.prompts import LearnablePrompts

TEXTS = ["a clear image with detailed background and salient objects", "a visible gray image"]
SIZES = {"crops": (8, 96, 96), "pictures": (2, 480, 640)}


def seconds(rounds: int, *work: Callable[[], object]) -> list[float]:
    """Return the median time of each, taken in turns after one call to warm up."""
    times: list[list[float]] = [[] for _ in work]
    for turn in range(rounds + 1):
        for each, record in zip(work, times, strict=True):
            start = time.perf_counter()
            each()
            if turn:
                record.append(time.perf_counter() - start)
    return [median(record) for record in times]


def models() -> dict[str, tuple[FrozenClip, nn.Module]]:
    """Return ours and the plain model by name."""
    logging.disable(logging.WARNING)
    vit = open_clip.create_model("ViT-B-32-quickgelu").eval().requires_grad_(False)
    identity = {"model": "ViT-B-32-quickgelu", "pretrained": None}
    source = Source(copy.deepcopy(vit), vit.visual.preprocess_cfg, "ViT-B-32-quickgelu", identity)
    micro = FrozenClip.load("micro"), load_micro()[0].requires_grad_(False)
    return {"micro": micro, "ViT-B-32": (FrozenClip(source), vit)}


def plain_encoder(clip: FrozenClip, model: Any) -> Callable[[Tensor], Tensor]:
    """Return what one would write without this package."""
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (clip.preprocess.mean, clip.preprocess.std))

    def encode(images: Tensor) -> Tensor:
        rgb = images.expand(-1, 3, -1, -1)
        small = F.interpolate(rgb, clip.preprocess.size, mode="bicubic", antialias=True)
        embedding: Tensor = model.encode_image((small - mean) / std)
        return embedding

    return encode


def measure_images(clip: FrozenClip, model: nn.Module, size: str, rounds: int) -> tuple[float, ...]:
    """Return images per second, forward and with backward, each with the ratio of times to the plain way."""
    count, height, width = SIZES[size]
    images = torch.rand(count, 1, height, width)
    free = images.clone().requires_grad_()

    def squash(x: Tensor) -> Tensor:
        return clip.encode_image(x, resize="squash")

    plain = plain_encoder(clip, model)

    def both(encode: Callable[[Tensor], Tensor]) -> tuple[Callable[[], object], Callable[[], object]]:
        return lambda: encode(images), lambda: torch.autograd.grad(encode(free).sum(), free)

    ours_forward, ours_both = both(squash)
    plain_forward, plain_both = both(plain)
    forward, other_forward = seconds(rounds, ours_forward, plain_forward)
    backward, other_backward = seconds(rounds, ours_both, plain_both)
    return count / forward, forward / other_forward, count / backward, backward / other_backward


def measure_texts(clip: FrozenClip, model: Any, rounds: int) -> tuple[float, ...]:
    """Return seconds of two texts anew, of the same two again, and of two prompts with their backward."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    prompts = LearnablePrompts(clip, {"positive": "", "negative": ""}, TEXTS[0])
    contexts = tuple(prompts.contexts)

    def anew() -> None:
        clip._texts.clear()
        clip.encode_text(TEXTS)

    def learn() -> None:
        torch.autograd.grad(prompts().sum(), contexts)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, plain = seconds(rounds, anew, lambda: model.encode_text(tokenizer(TEXTS)))
        again, learned = seconds(rounds, lambda: clip.encode_text(TEXTS), learn)
    return first, first / plain, again, learned, learned / plain


class Owner(nn.Module):
    """A loss with 32 KB of its own."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(16, 512))
        self.clip = clip


def checkpoint_size(module: nn.Module) -> float:
    """Return the megabytes `torch.save` writes."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return file.tell() / 1e6


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    found = models()
    print(f"{torch.get_num_threads()} threads; ratios are times against plain open_clip, below 1 is faster")
    print(f"{'':<20}{'forward':>20}{'forward + backward':>24}")
    print(f"{'':<20}{'images/s':>12}{'ratio':>8}{'images/s':>16}{'ratio':>8}")
    for size in SIZES:
        for name, (clip, model) in found.items():
            forward, ratio, backward, other = measure_images(clip, model, size, rounds)
            print(f"{f'{name}, {size}':<20}{forward:>12.1f}{ratio:>8.2f}{backward:>16.1f}{other:>8.2f}")
    print(
        f"\n{'two texts':<20}{'anew':>12}{'ratio':>8}{'again':>10}{'two prompts, backward':>24}{'ratio':>8}"
    )
    for name, (clip, model) in found.items():
        first, ratio, again, learned, other = measure_texts(clip, model, rounds)
        print(
            f"{name:<20}{1e3 * first:>9.1f} ms{ratio:>8.2f}{1e3 * again:>7.2f} ms"
            f"{1e3 * learned:>21.1f} ms{other:>8.2f}"
        )
    print(f"\n{'checkpoint of a loss':<20}{'here':>12}{'with CLIP as a submodule':>28}")
    for name, (clip, model) in found.items():
        print(f"{name:<20}{checkpoint_size(Owner(clip)):>9.2f} MB{checkpoint_size(Owner(model)):>25.1f} MB")


if __name__ == "__main__":
    main()
