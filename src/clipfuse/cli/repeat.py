"""Repeating a run: its command as one line of a shell, and its settings as the start of another run."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfuse.cli.launch import split_options
from clipfuse.cli.options import options
from clipfuse.errors import UserError, did_you_mean
from clipfuse.files import conf_dir, read_text, read_yaml
from clipfuse.ops.settings import leaves
from clipfuse.runs.overrides import raw, search_words

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Of the folder and the state of one run; another run has its own.
_ITS_OWN = ("sweep", "run_dir", "overwrite", "auto_resume", "checkpoint")
# Variables that change numbers, or what is found.
_VARIABLES = re.compile(
    r"(OMP|MKL|OPENBLAS)_NUM_THREADS|CUDA_VISIBLE_DEVICES|CUBLAS_WORKSPACE_CONFIG|PYTHONPATH|CLIPFUSE_\w+"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
_PLAIN = re.compile(r"[-+.\d]+|true|false|null", re.IGNORECASE)
_NEW = "runs/${now:%Y-%m-%d_%H-%M-%S}-${name}"  # the default run folder


def command_line(name: str, config: "DictConfig", run: str | None = None, words: Sequence[str] = ()) -> str:
    """Return the line of a shell that repeats this very run, in `runs/` of the folder where it is pasted.

    It works in the folder in which the run was started, so that relative paths and own classes are found. The
    thread count is always among its variables: it changes the last digits. Variables that the configuration
    reads by `oc.env` are given by name alone where they may be secret.

    Args:
        name: of the command.
        config: the composed configuration, not resolved.
        run: the run folder of `--from`.
        words: the overrides on top of it.
    """
    import torch
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    hydra = HydraConfig.get()
    overrides = hydra.overrides
    given = list(words) if run is not None else [*search_words(raw(overrides.hydra)), *raw(overrides.task)]
    last = ("checkpoint=last", "checkpoint=null")
    task = [word for word in given if word.startswith("checkpoint=") or _key(word) not in _ITS_OWN]
    task = [word for word in task if word not in last]
    text = str(OmegaConf.to_container(config, resolve=False))
    used = sorted(set(re.findall(r"\$\{oc\.env:(\w+)", " ".join([text, *task]))))
    values = {key: value for key, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(key)}
    values["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    values |= {key: os.environ[key] for key in used if key in os.environ}
    shown = {key: value for key, value in values.items() if not _may_be_secret(key, value)}
    start = [*(f"{key}={shlex.quote(value)}" for key, value in shown.items()), *_program(), name]
    origin = [] if run is None else ["--from", run]
    line = " ".join([*start, shlex.join([*_flags(name), *origin, *task])])
    new = _NEW.replace("$", "\\$")
    line = f"(cd {shlex.quote(str(hydra.runtime.cwd))} && {line} \"run_dir='$OLDPWD/{new}'\")\n"
    hidden = [key for key in used if key not in shown]
    return line + (f"# set these variables first: {' '.join(hidden)}\n" if hidden else "")


def _key(word: str) -> str:
    """Return the setting or group of an override."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def _may_be_secret(key: str, value: str) -> bool:
    known = _VARIABLES.fullmatch(key) or _PLAIN.fullmatch(value) or os.path.exists(value)
    return bool(_SECRET.search(key)) or not known


def _program() -> list[str]:
    """Return the words that start this installation from any folder."""
    script = Path(sys.executable).with_name("clipfuse")
    if (found := shutil.which("clipfuse")) and Path(found) == script:
        return ["clipfuse"]
    return [shlex.quote(str(script))] if script.is_file() else [shlex.quote(sys.executable), "-m", "clipfuse"]


def _flags(name: str) -> list[str]:
    """Return Hydra's options about the place of the configuration, where they were given."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    flags = [] if hydra.job.config_name in (None, name) else ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
        elif source.provider == "main" and source.path != str(conf_dir()):
            flags += ["--config-path", source.path]
    return flags


def split_from(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the run folder that `--from RUN` names, or None, and the other words of a command line.

    Raises:
        UserError: the folder is missing behind the option, or the option does not go with another one; or the
            configuration of a run folder is given as one for Hydra.
    """
    words = list(arguments)
    given = split_options(words)[0]
    if any(word.startswith(("--config", "-c")) for word in given):
        for folder in (Path(word.partition("=")[2] or word) for word in given):
            if _is_record(folder / "config.yaml"):
                raise UserError(
                    f"{folder} is a run folder, no configuration; take its settings by: clipfuse train "
                    f"--from {shlex.quote(str(folder))}"
                )
    place = next((index for index, word in enumerate(words) if word.split("=")[0] == "--from"), None)
    if place is None:
        return None, words
    _, joined, run = words.pop(place).partition("=")
    if not joined:
        if place == len(words):
            raise UserError("--from needs a run folder, as in --from runs/mine")
        run = words.pop(place)
    if found := next((word for word in words if word in ("-m", "--multirun")), None):
        raise UserError(f"--from starts one run, and {found} several: call it once for each, as with seed=1")
    return run, words


def _is_record(file: Path) -> bool:
    with suppress(UserError):
        return "\nsplit_sha256: " in read_text(file)
    return False


def group_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides that Hydra must compose, choices of options among them, and the other ones.

    Raises:
        UserError: a recipe was chosen, which is no setting of a run.
    """
    composed: list[str] = []
    rest: list[str] = []
    for word in words:
        key = _key(word)
        if key in ("experiment", "sweep"):
            raise UserError(f"--from takes all settings from its run; instead of {word} give single settings")
        hydra = word.startswith(("-", "hydra")) or key.startswith("hydra/")
        chosen = not word.startswith(("~", "+")) and (conf_dir() / key).is_dir() and bool(options(key, words))
        (composed if hydra or chosen else rest).append(word)
    return composed, rest


def rebase(config: "DictConfig", run: str, words: Sequence[str]) -> None:
    """Give a freshly composed configuration the settings of an earlier run, and overrides on top.

    Settings that the run does not have, as it is of an earlier version, keep their defaults.

    Args:
        config: composed of `conf/train.yaml` and the choices among `words`; it is changed.
        run: the run folder.
        words: all overrides.

    Raises:
        UserError: the folder holds no training, or an override does not fit.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf, open_dict

    from clipfuse.cli.config import explained
    from clipfuse.cli.launch import see_own

    base = _settings(Path(run))
    composed, rest = group_words(words)
    chosen = {_key(word) for word in composed}
    if "loss" in chosen:  # which is minimised as its file has it
        chosen |= {"solver"}
    loss, dash, backbone = str(base.get("name")).partition("-")
    if dash and loss == str(base["loss"].get("_target_")).split(".")[-2:][0]:  # the default name
        choices = dict(word.partition("=")[::2] for word in composed)
        base["name"] = f"{choices.get('loss', loss)}-{choices.get('backbone', backbone)}"
    with open_dict(config):
        for key in [*config, *(key for key in ("downstream",) if key not in config)]:
            if key in base and key not in chosen and key not in _ITS_OWN:
                config[key] = base[str(key)]
    OmegaConf.set_struct(config, True)
    with explained("train", words):
        changes = OverridesParser.create().parse_overrides(list(rest))
        known = list(leaves(OmegaConf.to_container(config, resolve=False)))
        for key in (change.key_or_group for change in changes if not change.is_add()):
            if not any(f"{each}.".startswith(f"{key}.") for each in known):
                raise UserError(f"unknown key '{key}' in the settings of {run}.{did_you_mean(key, known)}")
        ConfigLoaderImpl._apply_overrides_to_config(changes, config)
    see_own(config, HydraConfig.get().searchpath)


def _settings(run: Path) -> dict[str, Any]:
    """Return the settings in a run folder, with present names of classes, and links in place of copies."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from clipfuse.runs.contract import earlier_edition, present_name

    file = run / "config.yaml"
    if not file.is_file():
        raise UserError(f"--from {run}: there is no {file}; expected the folder of one run")
    record = read_yaml(file, remedy="expected the folder of one run")
    if not all(isinstance(record.get(key), dict) for key in ("loss", "backbone")):
        raise UserError(f"--from {run}: its config.yaml is not that of a training")
    old, started = str(record.get("run_dir") or ""), str(record.get("started_in") or "")

    def present(node: Any, key: str = "") -> Any:
        if isinstance(node, Mapping):
            return {name: present(child, str(name)) for name, child in node.items()}
        if isinstance(node, list):
            return [present(child) for child in node]
        if not isinstance(node, str):
            return node
        if key == "_target_":
            return present_name(node)
        if old not in ("", ".", "/") and f"{node}/".startswith(f"{old}/"):
            return "${run_dir}" + node[len(old) :]
        there = os.path.join(started, node)
        is_path = bool(started and node) and (os.sep in node or key == "root")
        return there if is_path and not os.path.exists(node) and os.path.exists(there) else node

    base: dict[str, Any] = present(record)
    for group, node in base.items():
        for option in sorted((conf_dir() / group).glob("*.yaml")) if isinstance(node, dict) else ():
            content = yaml.safe_load(option.read_text(encoding="utf-8")) or {}
            if content.get("_target_") == node.get("_target_"):
                links = {
                    key: raw for key, raw in content.items() if "${oc.select:" in str(raw) and key in node
                }
                for key, raw in links.items():
                    with suppress(OmegaConfBaseException):
                        if OmegaConf.create({**base, "value": raw}).value == node[key]:
                            node[key] = raw
    base = _linked(base, base.get("clip"))
    clip = base.get("clip")
    if (edition := earlier_edition(record)) and isinstance(clip, dict) and clip.get("model") == "micro":
        clip["pretrained"] = clip.get("pretrained") or edition
    return base


def _linked(base: dict[str, Any], clip: Any) -> dict[str, Any]:
    """Replace copies of the CLIP in a loss or its parts by links to it, so that another one reaches them."""

    def visit(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {
                key: "${clip}" if key == "clip" and child == clip else visit(child)
                for key, child in node.items()
            }
        return node

    return {**base, "loss": visit(base["loss"])}
