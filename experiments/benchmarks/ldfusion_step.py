"""What does a step with LDFusion's loss cost, by part, above its floor, and against a plain implementation?

Two pairs of 224x224 pixels of noise, in which every patch counts; or, with `--scenes`, whole steps on
rendered scenes, where CLIP need not look at flat patches. The backbone is contourlet_tiny with Adam. Weights
of ViT-B-32 and VGG19 are random, which cost as much as any. Each case runs in fresh processes.

The floor is CLIP alone, forward and backward to its input, on as many images as the fused ones and their
patches, in chunks as the loss takes them. The plain step is the published one: crops one by one, histograms
one by one, all of CLIP and VGG19 in the graph with gradients to CLIP's weights, sources too. Memory is the
peak above what the process holds before its first step, models included.

    OMP_NUM_THREADS=2 python experiments/benchmarks/ldfusion_step.py [--rounds 5] [--scenes]
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import open_clip
import torch
import torch._dynamo  # or Adam would, in the middle of a measurement
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers
from torchvision.transforms import v2

from clipfuse.cli.options import conf_dir
from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.loading import Source
from clipfuse.clip.micro_files import load_micro
from clipfuse.clip.towers import speed_up
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.data.transforms import collate, whole
from clipfuse.losses.ldfusion import LDFusionLoss
from clipfuse.ops.entropy import entropy
from clipfuse.ops.patches import cut_patches
from clipfuse.types import LossInputs

COUNT, SIDE = 2, 224


def make_clip(name: str) -> FrozenClip:
    """Return micro, or a random ViT-B-32 as OpenAI's is built; both as `FrozenClip.load` makes them."""
    if name == "micro":
        return FrozenClip.load("micro")
    model = plain_model(name)
    speed_up(model)
    identity = {"model": "ViT-B-32-quickgelu", "pretrained": None}
    return FrozenClip(Source(model, model.visual.preprocess_cfg, "ViT-B-32-quickgelu", identity))


def plain_model(name: str) -> Any:
    """Return open_clip's own model, as it stands."""
    logging.disable(logging.WARNING)
    return load_micro()[0] if name == "micro" else open_clip.create_model("ViT-B-32-quickgelu").eval()


def make_vgg(folder: str | None = None) -> tuple[nn.Module, str]:
    """Return all of a random VGG19's features, and a file of them, in a folder of its own or that one."""
    layers = make_layers(cfgs["E"])
    path = Path(folder or tempfile.mkdtemp()) / "vgg19.pth"
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, path)
    return layers, str(path)


def make_backbone() -> nn.Module:
    """Return contourlet_tiny."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        network: nn.Module = hydra.utils.instantiate(compose("train").backbone)
    return network


def make_inputs(scenes: bool = False) -> LossInputs:
    """Return a batch whose patches all count, or one of rendered scenes."""
    fused, infrared, visible = torch.rand(3, COUNT, 1, SIDE, SIDE)
    if scenes:
        source = SyntheticPairs(train=1, val=1, test=COUNT, size=SIDE)
        batch = collate([whole(source.load(name)) for name in source.parts()["test"]])
        infrared, visible = batch.infrared, batch.visible
    return LossInputs(fused.requires_grad_(), infrared, visible, sample_ids=("a", "b"))


def ours(loss: LDFusionLoss, inputs: LossInputs) -> Callable[[], object]:
    """Return the loss alone, forward and backward, the fused images being given."""
    return lambda: torch.autograd.grad(loss(inputs).total, inputs.fused)


def whole_step(judge: Callable[[Tensor], Tensor], infrared: Tensor, visible: Tensor) -> Callable[[], None]:
    """Return a training step: backbone, loss, backward, Adam."""
    network = make_backbone()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        judge(network(infrared, visible).fused).backward()
        optimizer.step()

    return step


def plain_loss(
    clip: FrozenClip, vgg: nn.Module, inputs: LossInputs, patches: int
) -> Callable[[Tensor], Tensor]:
    """Return the published loss as one would write it down, its 0/0 aside."""
    model = plain_model(clip.identity["model"]).requires_grad_(True)
    side = clip.preprocess.size[0]
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (clip.preprocess.mean, clip.preprocess.std))
    texts = clip.encode_text(["a clear image", "a visible gray image", "an infrared image"])
    text, visible_text, infrared_text = F.normalize(texts).split(1)

    def encode(images: Tensor) -> Tensor:
        small = F.interpolate(images.repeat(1, 3, 1, 1), side, mode="bilinear")
        return F.normalize(model.encode_image((small - mean) / std))

    def language(fused: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
        visible, infrared = (each.repeat(len(fused) // COUNT, 1) for each in (visible, infrared))
        ways = ((fused - visible, text - visible_text), (fused - infrared, text - infrared_text))
        return sum((1 - F.cosine_similarity(*way)) / 2 for way in ways)  # type: ignore[return-value]

    def bits(image: Tensor) -> float:
        share = torch.histc(image, 256, 0, 1) / image.numel()
        return float(-(share[share > 0] * share[share > 0].log2()).sum())

    def features(images: Tensor) -> list[Tensor]:
        hidden, found = images.repeat(1, 3, 1, 1), []
        for index, layer in enumerate(vgg.children()):
            hidden = layer(hidden)
            found += [hidden] if index in (6, 11, 22) else []
        return found

    def judge(fused: Tensor) -> Tensor:
        both = torch.cat([inputs.visible, inputs.infrared, fused])
        crop = v2.Compose([
            v2.RandomCrop(int(SIDE * 0.65)),
            v2.RandomAffine([-5, 5], translate=[0, 0.1], scale=[1, 1.5], shear=5),
            v2.Resize(side),
        ])  # fmt: skip
        crops = [crop(both).chunk(3) for _ in range(patches)]
        cut = torch.cat([each[2] for each in crops])
        pairs = [(each[0][i], each[1][i]) for each in crops for i in range(COUNT)]
        counts = torch.tensor([bits(first) > 6 and bits(second) > 6 for first, second in pairs])
        visible, infrared, seen, patch = (encode(x) for x in (inputs.visible, inputs.infrared, fused, cut))
        total = 2 * language(seen, visible, infrared).mean()
        total = total + 10 * (language(patch, visible, infrared) * counts).mean()
        total = total + 6 * (2 - (seen * visible).sum(1) - (seen * infrared).sum(1)).mean() / 2
        triples = zip(features(fused), features(inputs.visible), features(inputs.infrared), strict=True)
        return total + 10 * sum(F.mse_loss(f, first.maximum(second)) for f, first, second in triples)

    return judge


def parts(clip: FrozenClip, patches: int, vgg_file: str) -> dict[str, Callable[[], object]]:
    """Return each part of a step as work of its own."""
    inputs = make_inputs()
    full = LDFusionLoss(clip, patches=patches, perceptual="clip")
    places, size = full._places(inputs), clip.preprocess.size
    images = torch.rand(COUNT * (patches + 1), 1, *size)
    free = [part.clone().requires_grad_() for part in images.split(full.clip_batch)]
    sources = torch.cat([inputs.visible, inputs.infrared])
    vgg = LDFusionLoss(
        clip, global_weight=0, patch_weight=0, similarity_weight=0, perceptual="vgg19", vgg_weights=vgg_file
    )
    assert vgg.features is not None
    goals = vgg.features

    def crops() -> None:
        cut = cut_patches(inputs.fused, places, size)
        with torch.no_grad():
            entropy(cut_patches(torch.cat([inputs.infrared, inputs.visible], 1), places, size).flatten(0, 1))
        torch.autograd.grad(cut, inputs.fused, torch.ones_like(cut))

    def encode(images: Tensor) -> Callable[[], object]:
        return torch.no_grad()(lambda: clip.encode_image(images, resize="squash"))

    return {
        "loss": ours(full, inputs),
        "floor": lambda: [torch.autograd.grad(clip.encode_image(part).sum(), part) for part in free],
        "without features": ours(LDFusionLoss(clip, patches=patches, perceptual_weight=0), inputs),
        "crops": crops,
        "forward": encode(images),
        "sources": encode(sources),
        "vgg19": lambda: torch.autograd.grad(goals({}, {}, inputs.fused, sources), inputs.fused),
        "backbone": whole_step(torch.mean, inputs.infrared, inputs.visible),
    }


def steps(
    clip: FrozenClip, patches: int, vgg: nn.Module, vgg_file: str, which: str, scenes: bool = False
) -> Callable[[], object]:
    """Return a whole step with VGG19 as published: ours or the plain one."""
    inputs = make_inputs(scenes)
    if which == "plain":
        return whole_step(plain_loss(clip, vgg, inputs, patches), inputs.infrared, inputs.visible)
    loss = LDFusionLoss(clip, patches=patches, perceptual="vgg19", vgg_weights=vgg_file)

    def judge(fused: Tensor) -> Tensor:
        return loss(replace(inputs, fused=fused)).total

    return whole_step(judge, inputs.infrared, inputs.visible)


def seconds(rounds: int, *work: Callable[[], object]) -> list[float]:
    """Return the least processor time of each, taken in turns after one call to warm up.

    Processor time is that of all threads: other programs hardly disturb it.
    """
    times: list[list[float]] = [[] for _ in work]
    for turn in range(rounds + 1):
        for each, record in zip(work, times, strict=True):
            start = time.process_time()
            each()
            if turn:
                record.append(time.process_time() - start)
    return [min(record) for record in times]


def status(field: str) -> float:
    """Return a field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def peak(work: Callable[[], object]) -> float:
    """Return the memory that two calls need above what is held before, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the models
    before = status("VmRSS")
    work()
    work()
    return status("VmHWM") - before


def measure(name: str, patches: int, what: str, rounds: int, scenes: bool) -> dict[str, float]:
    """Measure one case in this process."""
    torch.manual_seed(0)
    clip = make_clip(name)
    vgg, vgg_file = make_vgg()
    if what == "parts":
        assert float(LDFusionLoss(clip, patches=patches, perceptual="clip")(make_inputs()).terms["kept"]) == 1
        work = parts(clip, patches, vgg_file)
        return dict(zip(work, seconds(rounds, *work.values()), strict=True))
    if what == "steps":
        own = steps(clip, patches, vgg, vgg_file, "ours", scenes)
        other = steps(clip, patches, vgg, vgg_file, "plain", scenes)
        return dict(zip(("ours", "plain"), seconds(rounds, own, other), strict=True))
    if what in ("ours", "plain"):
        return {what: peak(steps(clip, patches, vgg, vgg_file, what, scenes))}
    return {what: peak(parts(clip, patches, vgg_file)[what])}


def fresh(*words: str) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenes", action="store_true", help="whole steps on rendered scenes")
    parser.add_argument("--only", nargs=3, metavar=("CLIP", "PATCHES", "WHAT"), help="one case, as JSON")
    options = parser.parse_args()
    if options.only:
        name, patches, what = options.only
        print(json.dumps(measure(name, int(patches), what, options.rounds, options.scenes)))
        return
    rounds = ("--rounds", str(options.rounds), *(["--scenes"] if options.scenes else []))
    print(f"{torch.get_num_threads()} threads, batch {COUNT}, {SIDE}x{SIDE}; milliseconds and MB")
    for name in ("micro", "ViT-B-32"):
        for patches in (8, 32):
            case = ("--only", name, str(patches))
            ms = {key: 1e3 * value for key, value in fresh(*case, "parts", *rounds).items()}
            mb = {key: fresh(*case, key)[key] for key in ("loss", "floor", "crops", "vgg19", "backbone")}
            whole = fresh(*case, "steps", *rounds)
            held = {key: fresh(*case, key)[key] for key in ("ours", "plain")}
            print(f"\n{name}, {patches} patches")
            rows = {
                "loss alone": (ms["loss"], mb["loss"], f"{ms['loss'] / ms['floor']:.2f} of its floor"),
                "  crops and entropy": (ms["crops"], mb["crops"], ""),
                "  CLIP forward, sources": (ms["sources"], None, ""),
                "  CLIP forward, fused": (ms["forward"], None, ""),
                "  CLIP backward": (ms["floor"] - ms["forward"], None, "floor less forward"),
                "  features of CLIP": (ms["loss"] - ms["without features"], None, "loss less loss without"),
                "floor": (ms["floor"], mb["floor"], ""),
                "VGG19 instead": (ms["vgg19"], mb["vgg19"], ""),
                "backbone and Adam": (ms["backbone"], mb["backbone"], ""),
                "step with VGG19": (1e3 * whole["ours"], held["ours"], ""),
                "plain step": (
                    1e3 * whole["plain"],
                    held["plain"],
                    f"ours is {whole['plain'] / whole['ours']:.2f} times as fast "
                    f"in {held['ours'] / held['plain']:.2f} of the memory",
                ),
            }
            for row, (duration, memory, remark) in rows.items():
                megabytes = "" if memory is None else f"{memory:.0f} MB"
                print(f"{row:<26}{duration:>9.0f} ms{megabytes:>11}  {remark}")


if __name__ == "__main__":
    main()
