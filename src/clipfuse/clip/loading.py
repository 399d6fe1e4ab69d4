"""Where a CLIP comes from: the bundled one, open_clip's names and tags, a weights file, a folder, the hub."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipfuse.clip.fetching import fetch, offline
from clipfuse.clip.micro_files import EDITIONS, load_micro
from clipfuse.clip.towers import speed_up
from clipfuse.errors import UserError, did_you_mean
from clipfuse.files import file_sha256, weights_sha256

MICRO = "micro"
_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".npy")


@dataclass(frozen=True)
class Source:
    """A loaded model with its preprocessing, tokenizer and identity.

    Attributes:
        model: open_clip's model, float32 on the CPU, frozen, in eval mode.
        preprocess: open_clip's `preprocess_cfg`: `size`, `mean`, `std`, `interpolation`, `resize_mode`.
        tokenizer: the name `open_clip.get_tokenizer` takes, or None for the standard one.
        identity: plain values for the record of a run.
        seen: ids of the tokens in its training texts, or None for all.
    """

    model: Any
    preprocess: Mapping[str, Any]
    tokenizer: str | None
    identity: Mapping[str, Any]
    seen: tuple[int, ...] | None = None


def load_source(model: str, pretrained: str | None, quick_gelu: bool) -> Source:
    """Load a model; arguments and errors are those of `FrozenClip.load`."""
    if model == MICRO:
        return _load_micro(pretrained)
    import open_clip

    path = find_weights(model, pretrained)
    trusted_script = path is not None and _is_script(path)
    if path is not None and trusted_script and file_sha256(path) not in _openai_hashes():
        raise UserError(
            f"{path} is a TorchScript program other than OpenAI's own; it could run foreign code: save its "
            "state dict by torch.save, or as safetensors"
        )
    try:
        with _quiet(), warnings.catch_warnings(), offline():  # all is here by now
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            warnings.filterwarnings("ignore", message=".*torch.jit")
            loaded = open_clip.create_model(
                model,
                pretrained=pretrained,
                force_quick_gelu=quick_gelu,
                require_pretrained=True,
                weights_only=not trusted_script,
            )
    except UserWarning as error:
        raise UserError(
            f"the weights {pretrained} of {model} were trained with another activation ({error}); "
            f"{'leave quick_gelu out' if quick_gelu else f'use {model}-quickgelu, or quick_gelu=true'}"
        ) from error
    except Exception as error:  # a wrong or broken file can raise anything
        raise UserError(_why_not(model, path, trusted_script, error)) from error
    _freeze(loaded)
    is_tag = pretrained is not None and open_clip.is_pretrained_cfg(model, pretrained)
    identity = {"model": model, "pretrained": pretrained if is_tag or path is None else path.name}
    identity |= _facts(loaded)
    if path is not None and not is_tag:
        _check_activation(model, path, bool(identity["quick_gelu"]))
    speed_up(loaded)
    return Source(loaded, loaded.visual.preprocess_cfg, model, identity)


def find_weights(model: str, pretrained: str | None) -> Path | None:
    """Return the weights file, downloaded if need be and possible; None if a folder is to be searched.

    Raises:
        UserError: no such model, tag or file, or it would have to be downloaded and cannot.
    """
    import open_clip

    if model == MICRO:
        raise UserError("micro is bundled; there is nothing to fetch")
    scheme, _, place = model.partition(":")
    if scheme in ("local-dir", "hf-hub") and place:
        if pretrained is not None:
            raise UserError(f"{model} has its own weights; leave pretrained out")
        if scheme == "hf-hub":
            return _find_on_hub(model, place)
        _check_local(place)
        return None
    known = open_clip.list_models()
    if model not in known:
        remedy = did_you_mean(model, [*known, MICRO])
        raise UserError(
            f"there is no CLIP named '{model}'.{remedy} Python's open_clip.list_models() names all"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        raise UserError(
            f"{model} needs weights: pretrained=/path/to/file, or pretrained=TAG with TAG one of "
            f"{', '.join(tags) or '... none are public'}"
        )
    config = open_clip.get_pretrained_cfg(model, pretrained)
    if config:
        try:
            with _quiet():
                return Path(fetch(lambda: open_clip.download_pretrained(config)))
        except Exception as error:  # no network, no room, a proxy's page
            raise UserError(_offline(model, pretrained, error)) from error
    if Path(pretrained).is_file():
        return Path(pretrained)
    if Path(pretrained).is_dir():
        raise UserError(
            f"{pretrained} is a folder; name the weights file, or use the model local-dir:{pretrained}"
        )
    if {"/", "\\"} & set(pretrained) or pretrained.endswith(_SUFFIXES):
        raise UserError(
            f"there is no weights file {pretrained}; give pretrained= the path of one for {model}"
        )
    others = f" Tags: {', '.join(tags)}" if tags else " It has no public weights"
    near = did_you_mean(pretrained.lower().replace("-", "_"), tags)
    raise UserError(f"{model} has no weights named '{pretrained}'.{near}{'' if near else others}")


def _check_local(place: str) -> None:
    folder = Path(place)
    if not (folder / "open_clip_config.json").is_file():
        raise UserError(f"local-dir:{place} must be a folder with open_clip_config.json and a weights file")
    if not any(any(folder.glob(f"*{suffix}")) for suffix in (".safetensors", ".bin", ".pth")):
        raise UserError(
            f"{folder} has no weights file (*.safetensors, *.bin or *.pth) beside its configuration"
        )


def _find_on_hub(model: str, place: str) -> Path:
    from open_clip.pretrained import download_pretrained_from_hf

    try:
        with _quiet():
            fetch(lambda: download_pretrained_from_hf(place, filename="open_clip_config.json"))
            return Path(fetch(lambda: download_pretrained_from_hf(place)))
    except Exception as error:  # no network, no such repository, no room
        raise UserError(_offline(model, None, error)) from error


def _offline(model: str, tag: str | None, error: Exception) -> str:
    weights = f"the weights '{tag}' of {model}" if tag else model
    return (
        f"{weights} are not on this machine and cannot be downloaded ({_short(error)}); three ways out: "
        "clip=micro, a small stand-in that is bundled; a local file, clip.pretrained=/path/to/weights; or, "
        f"with a network, clipfuse doctor --download {model} {tag or '-'}"
    )


def _why_not(model: str, path: Path | None, is_script: bool, error: Exception) -> str:
    """Raise one error for a file that cannot be read, another for one that holds another architecture."""
    if path is None:
        return f"{model} cannot be loaded ({_short(error)}); check its open_clip_config.json and weights"
    from open_clip.factory import load_state_dict

    try:
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights = load_state_dict(str(path), weights_only=not is_script)
        whole = all(isinstance(value, Tensor) for value in weights.values())
    except Exception:  # see above
        whole = False
    if whole:
        return (
            f"{path} holds weights of another architecture than {model} ({_short(error)}); name the model "
            "they are of"
        )
    return f"{path} is no weights file, or a truncated one; fetch it again, or name another with pretrained="


def _load_micro(edition: str | None) -> Source:
    folder = None if edition is None else EDITIONS.get(edition, Path(edition))
    model, config = load_micro(folder)
    _freeze(model)
    identity = {"model": MICRO, "pretrained": folder and folder.name, "version": config["version"]}
    identity |= _facts(model)
    speed_up(model)
    return Source(model, config["preprocess"], None, identity, seen=tuple(config["seen"]))


def make_tokenizer(source: Source) -> Any:
    """Return open_clip's tokenizer of a model.

    Raises:
        UserError: it must be downloaded and cannot be, or needs a package that is not here.
    """
    import open_clip

    if source.tokenizer is None:
        text = getattr(source.model, "text", source.model)
        return open_clip.SimpleTokenizer(context_length=text.context_length)
    try:
        with _quiet():
            return fetch(lambda: open_clip.get_tokenizer(source.tokenizer))
    except Exception as error:  # no network, no package
        message = f"the tokenizer of {source.tokenizer} cannot be had here ({_short(error)})"
        raise UserError(message) from error


def _freeze(model: nn.Module) -> None:
    model.eval().requires_grad_(False)


def _facts(model: nn.Module) -> dict[str, Any]:
    from open_clip.transformer import QuickGELU

    quick = any(isinstance(module, QuickGELU) for module in model.modules())
    return {"quick_gelu": quick, "weights_sha256": weights_sha256(model.state_dict())}


def _is_script(path: Path) -> bool:
    """Whether a file may be TorchScript, as OpenAI's own are: torch reads it only by running it."""
    try:
        return "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError:
        return False


def _check_activation(model: str, path: Path, quick_gelu: bool) -> None:
    """Refuse a published file, known by its hash, whose activation in training is not that of the model.

    open_clip compares them for its tags alone; the hash, or its first 8 digits, stands in a file's address.
    """
    import open_clip

    digest = file_sha256(path)
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_pretrained_cfg(name, tag)
        parts = ["", "", *config.get("url", "").split("/")]
        short = Path(parts[-1]).stem.rpartition("-")[2]
        same = digest == parts[-2] or (len(short) == 8 and digest.startswith(short))
        if same and bool(config.get("quick_gelu")) != quick_gelu:
            plain = model.removesuffix("-quickgelu")
            right = plain if quick_gelu else f"{plain}-quickgelu"
            raise UserError(
                f"{path} holds the weights '{tag}' of {name}, which were trained with "
                f"{'GELU' if quick_gelu else 'QuickGELU'}, another activation than that of {model}: use "
                f"clip.model={right}{', and leave quick_gelu out' if quick_gelu else ''}"
            )


def _openai_hashes() -> set[str]:
    """The SHA-256 of OpenAI's own files, which stand in the addresses they are published at."""
    import open_clip

    models = open_clip.list_pretrained_models_by_tag("openai")
    urls = (open_clip.get_pretrained_cfg(model, "openai").get("url", "") for model in models)
    return {url.split("/")[-2] for url in urls if url.count("/") >= 2}


def _short(error: Exception) -> str:
    """The most telling line of an error, not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if line.startswith("size mismatch")), lines[-1])
    return line if len(line) <= 120 else f"{line[:117]}..."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from installing a root log handler, which would print every other line twice."""
    root, quiet = logging.getLogger(), logging.NullHandler()
    root.addHandler(quiet)
    try:
        yield
    finally:
        root.removeHandler(quiet)
