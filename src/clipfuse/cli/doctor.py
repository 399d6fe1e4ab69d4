"""`clipfuse doctor`: what works on this machine and what is missing."""

import argparse
import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from clipfuse.errors import UserError
from clipfuse.version import __version__

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
    """Print one line per check; or download the weights of a CLIP, to be copied to a machine without network.

    Returns:
        0 if training can run here, 2 if something it needs is missing.

    Raises:
        UserError: the weights cannot be downloaded.
    """
    parser = argparse.ArgumentParser(
        prog="clipfuse doctor", description="List what works on this machine and what is missing."
    )
    parser.add_argument(
        "--download",
        nargs=2,
        metavar=("MODEL", "TAG"),
        help="fetch the weights of an open_clip model, such as ViT-B-32-quickgelu openai; TAG is - for "
        "hf-hub:organisation/repository",
    )
    if download := parser.parse_args(arguments).download:
        return _download(*download)
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
