"""`clipfuse doctor`: what works on this machine and what is missing; and whether pairs are registered."""

import argparse
import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.value_range import add_range, given_ranges
from clipfuse.errors import UserError
from clipfuse.version import __version__

if TYPE_CHECKING:
    from clipfuse.data.registration import Registration

_SHOWN = 10  # pairs of the table, where fewer are flagged
_NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "lightning": "lightning",
    "hydra-core": "hydra",
    "omegaconf": "omegaconf",
    "torchmetrics": "torchmetrics",
    "kornia": "kornia",
    "open_clip_torch": "open_clip",
    "wandb": "wandb",
}
_OPTIONAL = {
    "onnx": "export",
    "onnxruntime": "export",
    "hydra-optuna-sweeper": "sweep",
    "ray": "sweep",
    "faster-coco-eval": "downstream",
}


def main(arguments: Sequence[str]) -> int:
    """Print one line per check; or judge pairs; or download the weights of a CLIP for another machine.

    Returns:
        0 if training can run here, 2 if something it needs is missing; of pairs 0, or 1 if one is flagged.

    Raises:
        UserError: the weights cannot be downloaded, the pairs cannot be read, or an option has no effect.
    """
    parser = argparse.ArgumentParser(
        prog="clipfuse doctor",
        description="List what works on this machine and what is missing; or find pairs "
        "whose infrared image is shifted.",
    )
    parser.add_argument(
        "--download",
        nargs=2,
        metavar=("MODEL", "TAG"),
        help="fetch the weights of an open_clip model, such as ViT-B-32-quickgelu openai; TAG is - for "
        "hf-hub:organisation/repository",
    )
    parser.add_argument(
        "--pairs",
        metavar="DIR",
        help="instead: measure how far the infrared image of each pair below DIR is shifted, and flag those "
        "that stand out of the set; exit code 1 if there are any",
    )
    parser.add_argument("--out", metavar="FILE", help="of --pairs: CSV file for the shifts of all pairs")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    add_range(parser)
    options = parser.parse_args(arguments)
    if options.download and (options.pairs or options.out or options.range or options.overwrite):
        raise UserError(
            "--download fetches weights and does nothing else: leave out --pairs, --out, --overwrite and "
            "--range"
        )
    if options.download:
        return _download(*options.download)
    if options.pairs:
        return _judge_pairs(Path(options.pairs), options)
    if options.out or options.range or options.overwrite:
        raise UserError("--out, --overwrite and --range are for --pairs; add it, or leave them out")
    print(f"clipfuse {__version__}, Python {platform.python_version()}, {platform.platform()}")
    checks: dict[str, Callable[[], str]] = {
        "configuration": _configuration,
        **{name: _importer(name, module) for name, module in _NEEDED.items()},
        "compute": _compute,
        "current folder": _folder,
        "data": _data,
        "clip=micro": _micro,
        "bundled network": _bundled,
        "wandb login": _wandb_login,
    }
    failed = False
    for name, check in checks.items():
        try:
            mark, text = "ok", check()
        except Exception as error:  # a broken package can raise anything while it is imported
            mark, text, failed = "MISSING", str(error) or type(error).__name__, True
        print(f"  {mark:8}{name:16} {text}")
    for name, extra in _OPTIONAL.items():
        try:
            print(f"  {'ok':8}{name:16} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {'-':8}{name:16} optional: pip install 'clipfuse[{extra}]'")
    print(
        "something is missing: install clipfuse again" if failed else "ready: clipfuse train experiment=quick"
    )
    return 2 if failed else 0


def _importer(name: str, module: str) -> Callable[[], str]:
    def check() -> str:
        importlib.import_module(module)
        return importlib.metadata.version(name)

    return check


def _configuration() -> str:
    from clipfuse.cli.config import conf_dir

    return str(conf_dir())


def _compute() -> str:
    import torch

    threads = f"{os.cpu_count()} CPU cores, torch uses {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        return f"{threads}; no GPU"
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"{threads}; GPU: {names} (bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'})"


def _folder() -> str:
    if not os.access(Path.cwd(), os.W_OK):
        raise UserError(f"{Path.cwd()} cannot be written; run folders need another run_dir")
    return f"{Path.cwd()} can be written"


def _data() -> str:
    from clipfuse.data.synthetic import SyntheticPairs

    source = SyntheticPairs(train=1, val=1, test=1, size=64)
    source.load(source.parts()["train"][0])
    return "the renderer works; data=synthetic needs no files"


def _wandb_login() -> str:
    from clipfuse.tracking.wandb_run import login_mode

    if login_mode() == "online":
        return "found: logger=wandb uploads while it trains"
    return "none: logger=wandb keeps runs here and names the command that uploads them"


def _micro() -> str:
    from clipfuse.clip.micro_files import load_micro

    _, config = load_micro()
    return f"version {config['version']}, {len(config['seen'])} known tokens; a stand-in for OpenAI's CLIP"


def _bundled() -> str:
    from clipfuse.networks.load import load_network

    load_network()
    return "clipfuse fuse needs no checkpoint"


def _download(model: str, tag: str) -> int:
    from clipfuse.clip.loading import find_weights

    path = find_weights(model, None if tag == "-" else tag)
    print(
        f"{path}\n{model} {tag} is ready for this user; elsewhere, copy the file: clip.pretrained=/path/to/it"
    )
    return 0


def _judge_pairs(folder: Path, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from clipfuse.data.listed import given_pairs
    from clipfuse.data.registration import estimate_shift, judge_set
    from clipfuse.files import check_output, csv_text, write_atomically
    from clipfuse.images import gray, read_registered
    from clipfuse.ops.depth import to_unit

    out = Path(options.out) if options.out else None
    if out:
        check_output(out, options.overwrite)
    ranges = given_ranges(options.range)
    found = given_pairs(folder, folder)
    print(found.summary())
    shifts, sizes = {}, {}
    for name, pair in tqdm(found.pairs.items(), "measuring", unit="pair"):
        infrared, visible = (
            to_unit(gray(each))[0] for each in read_registered(pair.infrared, pair.visible, ranges)
        )
        shifts[name] = estimate_shift(infrared.numpy(), visible.numpy())
        sizes[name] = (infrared.shape[0], infrared.shape[1])
    judged = judge_set(shifts, sizes)
    flagged, unknown = set(judged.flagged), set(judged.unknown)
    rows = [
        (
            name,
            *(("", "", "") if name in unknown else (shift.right, shift.down, judged.distance(name))),
            shift.confidence,
            "flagged" if name in flagged else "not known" if name in unknown else "ok",
        )
        for name, shift in judged.shifts.items()
    ]
    if out:
        columns = ("name", "right", "down", "from_set", "confidence", "verdict")
        with write_atomically(out, overwrite=options.overwrite) as file:
            file.write(csv_text(columns, rows))
    shown = rows[: max(_SHOWN, len(flagged))]
    width = max(4, *(len(row[0]) for row in shown))
    print(f"\n{'pair':{width}}   right    down  from set  confidence")
    for name, right, down, distance, confidence, verdict in shown:
        cells = " " * 26 if right == "" else f"{right:+8.2f}{down:+8.2f}{distance:10.2f}"
        print(f"{name:{width}}{cells}{confidence:12.2f}  {'' if verdict == 'ok' else verdict}".rstrip())
    if len(rows) > len(shown):
        print(f"... and {len(rows) - len(shown)} more, which are nearer to the set's shift or not known")
    print(f"\n{_verdict(judged)}")
    if out:
        print(f"written: {out}")
    return 1 if flagged else 0


def _verdict(judged: "Registration") -> str:
    """Return what is to be known of the set: how many pairs are flagged, its own shift, what is not known."""
    from clipfuse.data.registration import FEW, WHOLE

    total, unknown = len(judged.shifts), len(judged.unknown)
    limits = sorted({round(limit, 2) for limit in judged.limits.values()})
    limit = f"{limits[0]:g}" if len(limits) == 1 else f"{limits[0]:g} to {limits[-1]:g}"
    lines = []
    if total - unknown >= FEW:
        lines.append(
            f"set: the infrared images lie {judged.right:+.2f} px to the right, {judged.down:+.2f} px down "
            f"(median); {len(judged.flagged)} of {total} pairs lie more than {limit} px from there"
        )
    else:
        lines.append(
            f"set: fewer than {FEW} known shifts, so that they are compared with none; {len(judged.flagged)} "
            f"of {total} pairs are shifted by more than {limit} px"
        )
    if (judged.right**2 + judged.down**2) ** 0.5 > WHOLE:
        lines.append("warning: the whole set is shifted; register it, or move its infrared images back")
    if unknown:
        lines.append(f"{unknown} of {total} shifts are not known: too little that both bands show")
    return "\n".join(lines)
