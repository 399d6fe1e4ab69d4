"""`clipfuse distill --checkpoint C --out S [data=...]`: a small network that fuses as another one does."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from clipfuse.cli.devices import chosen_device
from clipfuse.cli.launch import COMPOSED, run_hydra
from clipfuse.cli.own import look_in
from clipfuse.errors import UserError
from clipfuse.runs.overrides import quoted

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from clipfuse.data.pairs import PairSource
    from clipfuse.networks.distilling import Lesson

ENOUGH = 0.95  # share of the teacher's score that a student should reach
_OPTIONS = {"--checkpoint": "checkpoint", "--out": "out"}
_Scores = dict[str, tuple[float, float]]  # metric -> teacher, student


@dataclass
class DistillSettings:
    """The keys of `conf/distill.yaml` beside its groups."""

    checkpoint: str | None
    out: str
    updates: Annotated[int, Field(ge=1)]
    crops: Annotated[int, Field(ge=1)]
    crop_size: Annotated[int, Field(ge=16)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    judge: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    device: str | None
    cache_mb: Annotated[float, Field(ge=0)]
    overwrite: bool
    trust: list[str]


def main(arguments: Sequence[str]) -> None:
    """Compose `conf/distill.yaml` with the overrides, train the student, judge it and write it."""
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("distill makes one student at a time; call it once for each instead of -m")
    if COMPOSED in arguments[:1]:
        raise UserError(f"distill does not take {COMPOSED}")
    run_hydra("distill", as_overrides(arguments), _check, _distill)


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return the words for Hydra: --checkpoint, --out and --overwrite become overrides.

    Raises:
        UserError: an option without its value.
    """
    words, result = list(arguments), []
    while words:
        word = words.pop(0)
        option, joined, value = word.partition("=")
        if option in _OPTIONS:
            if not joined and not words:
                raise UserError(f"{option} needs a path, as in {option} PATH")
            result.append(f"{_OPTIONS[option]}={quoted(value if joined else words.pop(0))}")
        else:
            result.append("overwrite=true" if word == "--overwrite" else word)
    return result


def _check(config: "DictConfig") -> None:
    from omegaconf import OmegaConf

    from clipfuse.cli.config import check_config

    if OmegaConf.is_missing(config, "out"):
        raise UserError("--out must be given: the file to write, such as student.safetensors")
    check_config(config, DistillSettings, ("data", "backbone"))


def _distill(config: "DictConfig") -> None:
    from omegaconf import OmegaConf

    from clipfuse.cli.finished import stop_on_signals
    from clipfuse.files import check_output, file_sha256, write_atomically
    from clipfuse.networks.distilling import distil
    from clipfuse.networks.load import load_network
    from clipfuse.networks.weights import write_safetensors
    from clipfuse.runs.build import build
    from clipfuse.tracking.progress import amount_bar

    out = Path(config.out).expanduser()
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: expected a name that ends in .safetensors")
    card = out.with_suffix(".md")
    file = teacher_file(config.checkpoint)
    for path in (out, card):
        check_output(path, config.overwrite, (file,))
    device = chosen_device(config.device, "device=")
    if config.trust:
        look_in(os.getcwd(), config.trust)
    teacher = load_network(file, config.trust)
    if file.suffix != ".onnx":
        teacher.to(device)
    student = _student(config, teacher, file).to(device)
    source = build(config.data, "data")
    if not source.parts()["train"]:
        raise UserError(
            f"the data set '{source.name}' has no train pairs; add some, or lower data.val and data.test"
        )
    if line := getattr(source, "summary", str)():
        print(line)
    quiet = not sys.stderr.isatty()
    with stop_on_signals():
        with amount_bar("the teacher fuses", " crops", config.crops, quiet) as advance:
            lessons = draw_lessons(source, teacher, file, config, advance)
        with amount_bar("the student learns", " updates", config.updates, quiet) as advance:
            try:
                losses = distil(
                    *(student, lessons, config.updates, config.batch_size, config.learning_rate, config.seed),
                    advance=advance,
                )
            except ValueError as error:
                raise UserError(f"learning_rate={config.learning_rate}: {error}") from error
        last = losses[-max(1, len(losses) // 20) :]
        print(f"loss {losses[0]:.4f} at first, {sum(last) / len(last):.4f} over the last {len(last)} updates")
        scores, judged = _judge(source, {"teacher": teacher, "student": student}, file, config.judge)
        table = score_lines(scores)
        facts = {
            "teacher": f"`{file.name}` ({type(teacher).__name__}), SHA-256 {file_sha256(file)}",
            "student": f"`{type(student).__name__}`, {sum(each.numel() for each in student.parameters())} "
            f"parameters, {OmegaConf.to_container(config.backbone, resolve=True)}",
            "data": f"{source.name}, {len(source.parts()['train'])} training pairs, "
            f"fingerprint {source.fingerprint()}",
            **{name: str(config[name]) for name in ("updates", "crops", "crop_size", "batch_size")},
            **{name: str(config[name]) for name in ("learning_rate", "seed")},
            "loss": f"{sum(last) / len(last):.4f} over the last {len(last)} updates",
        }
        node: Any = OmegaConf.to_container(config.backbone, resolve=True)
        write_safetensors(out, node, student, config.overwrite)
        with write_atomically(card, overwrite=config.overwrite) as text:
            text.write(_card(out.name, facts, table, judged))
    if table:
        print(f"on {judged} validation pairs:", *table, sep="\n")
    if low := [name for name, (one, other) in scores.items() if other < ENOUGH * one]:
        print(f"below {ENOUGH:.0%} of the teacher in {', '.join(low)}: more updates, crops or data may help")
    print(f"written: {out} and {card}; take it by: clipfuse fuse --checkpoint {out}")


def teacher_file(given: str | None) -> Path:
    """Return the file of the teacher: a run's last checkpoint, a file, or the bundled weights.

    Raises:
        UserError: a folder that is no run, or the bundled weights are missing.
    """
    from clipfuse.networks.load import choose_checkpoint

    path = choose_checkpoint(None if given in (None, "bundled") else given)
    if not path.is_dir():
        return path
    last = path / "checkpoints/last.ckpt"
    if not last.is_file():
        raise UserError(
            f"--checkpoint {path}: there is no checkpoints/last.ckpt in this folder; name a run folder, a "
            "file of 'clipfuse train' or 'clipfuse export', or bundled"
        )
    return last


def _student(config: "DictConfig", teacher: "nn.Module", file: Path) -> "nn.Module":
    """Build the student, which learns the chroma if the teacher does; the global generator is left alone."""
    import torch

    from clipfuse.ops.seeding import derived_seed
    from clipfuse.runs.build import build

    learns = bool(getattr(teacher, "learns_chroma", False))
    if config.backbone.get("chroma") and not learns:
        raise UserError(f"backbone.chroma=true: {file} keeps the chroma of the visible image; leave it out")
    if "chroma" in config.backbone:
        config.backbone.chroma = learns
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(config.seed, "student"))
        student: nn.Module = build(config.backbone, "backbone")
    if learns and not getattr(student, "learns_chroma", False):
        raise UserError(f"{file} learns the chroma, which this backbone cannot; take backbone=student")
    if not any(each.requires_grad for each in student.parameters()):
        raise UserError("backbone: it has no parameters to learn; take backbone=student")
    return student


def draw_lessons(
    source: "PairSource", teacher: "nn.Module", file: Path, config: Any, advance: Any
) -> "list[Lesson]":
    """Have the teacher fuse crops of the training pairs, drawn as a training draws them.

    Args:
        source: the pairs.
        teacher: any network.
        file: it was read from, for messages.
        config: `crops`, `crop_size`, `seed` and `cache_mb` of `conf/distill.yaml`.
        advance: called with 1 after each crop.

    Raises:
        UserError: a pair is too small, or cannot be read or fused.
    """
    from clipfuse.data.datamodule import PairCache, StreamSampler
    from clipfuse.data.transforms import paired_crop
    from clipfuse.networks.apply import apply_in_color
    from clipfuse.networks.distilling import Lesson

    ids, cache, lessons = source.parts()["train"], PairCache(source, config.cache_mb), []
    learns = bool(getattr(teacher, "learns_chroma", False))
    device = next((each.device for each in teacher.parameters()), None)
    for ((position, index),) in StreamSampler(len(ids), 1, config.crops, 0, config.seed):
        crop = paired_crop(cache.load(ids[index]), config.crop_size, config.seed, position, ids[index])
        infrared, visible, seen = (each.to(device) for each in (crop.infrared, crop.visible, crop.chroma))
        what = f"a crop of {ids[index]} with {file}"
        fused, chroma = apply_in_color(teacher, infrared, visible, seen, what)
        kept = [infrared, visible, fused, *((seen, chroma) if learns else ())]
        lessons.append(Lesson(*(plane.cpu().half() for plane in kept)))
        advance(1)
    return lessons


def _judge(
    source: "PairSource", networks: "dict[str, nn.Module]", file: Path, most: int
) -> tuple[_Scores, int]:
    """Return VIF, Qabf and `balanced` of both, means over validation pairs, and the number of pairs."""
    from statistics import fmean

    from tqdm import tqdm

    from clipfuse.data.transforms import whole
    from clipfuse.metrics.scoring import Scorer
    from clipfuse.metrics.verdict import BALANCED
    from clipfuse.networks.apply import apply_network

    ids = source.parts()["val"]
    chosen = ids[:: max(1, len(ids) // most)][:most] if most else ()
    scorer = Scorer(
        "strict", ["VIF", "Qabf", *(each for names in BALANCED.members.values() for each in names)]
    )
    rows: dict[str, list[tuple[float, float]]] = {}
    for name in tqdm(chosen, "judging", unit="pair", disable=not sys.stderr.isatty()):
        pair = whole(source.load(name), name)
        fused = {}
        for word, network in networks.items():
            device = next((each.device for each in network.parameters()), pair.infrared.device)
            planes = pair.infrared.to(device), pair.visible.to(device)
            fused[word] = apply_network(network, *planes, f"{name} with {file}").cpu()
        scored = scorer.score_all(fused, pair.infrared, pair.visible, pair.target_mask)
        for metric, taught in scored["teacher"].items():
            both = taught, scored["student"][metric]
            if all(value == value for value in both):  # neither is NaN
                rows.setdefault(metric, []).append(both)
    means = {name: tuple(map(fmean, zip(*pairs, strict=True))) for name, pairs in rows.items()}
    return {name: (one, other) for name, (one, other) in means.items()}, len(chosen)


def score_lines(scores: _Scores) -> list[str]:
    """Return a table in Markdown: metric, teacher, student, and the student as a share of the teacher."""
    rows = [
        f"| {name} | {one:.4f} | {other:.4f} | {f'{100 * other / one:.1f} %' if one > 0 else ''} |"
        for name, (one, other) in scores.items()
    ]
    return ["| | teacher | student | share |", "|---|---|---|---|", *rows] if rows else []


def _card(name: str, facts: dict[str, str], table: Sequence[str], judged: int) -> str:
    from clipfuse.version import __version__

    lines = [
        f"# {name}",
        "",
        "A network that was trained to fuse infrared and visible images as another one does, by",
        f"`clipfuse distill` of ClipFuse {__version__}. Use: `clipfuse fuse --checkpoint {name}`. What",
        "limits its teacher limits it as well.",
        "",
        *(f"- {word}: {text}" for word, text in facts.items()),
    ]
    if table:
        lines += ["", f"Means over {judged} validation pairs, protocol strict:", "", *table]
    return "\n".join([*lines, ""])
