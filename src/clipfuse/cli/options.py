"""The configuration tree: its folder, its groups and their options."""

import re
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from clipfuse.errors import did_you_mean
from clipfuse.files import conf_dir
from clipfuse.runs.overrides import search_words

_COLUMNS = 100
_KEY = "..."  # shown for a value that is not written out


def options(group: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the options of a group: ours, those of installed plugins and of a search path given."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    within = GlobalHydra.instance().is_initialized()
    with nullcontext() if within else initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return sorted(
            GlobalHydra.instance().config_loader().get_group_options(group, overrides=search_words(arguments))
        )


def unknown_option(choice: str, arguments: Sequence[str]) -> str:
    """Return a message about the part of `group/option` that is not known, with the nearest known one."""
    group, _, option = choice.rpartition("/")
    known = options(group, arguments)
    if group.startswith("hydra/"):
        return f"unknown {group} '{option}'; those for clusters and searches are in the extra clipfuse[sweep]"
    if not known:
        return f"unknown configuration group '{group or option}'"
    return f"unknown {group} '{option}'.{did_you_mean(option, known)} Available: {', '.join(known)}"


def help_text(name: str, arguments: Sequence[str]) -> str:
    """Return the settings and groups of `conf/NAME.yaml`, each with a line, in at most 100 columns.

    The lines are the comments of the files: beside a setting or group, and at the top of an option's file.
    """
    from omegaconf import OmegaConf

    path = conf_dir() / f"{name}.yaml"
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    listed = [each for each in content["defaults"] if isinstance(each, dict)]
    comments = _comments(path)
    for part in (each for each in content["defaults"] if isinstance(each, str) and each != "_self_"):
        part_path = conf_dir() / f"{part}.yaml"
        listed += OmegaConf.to_container(OmegaConf.load(part_path), resolve=False)["defaults"]  # type: ignore
        comments |= _comments(part_path)
    more = " [-m | --from RUN]" if name == "train" else ""
    words = {
        "downstream": " [SWEEP | RUN | NETWORK ...] [--fused NAME=TRAIN_DIR:TEST_DIR]",
        "distill": " [--checkpoint C] --out S [--overwrite]",
    }.get(name, "")
    lines = [
        f"usage: clipfuse {name}{words} [group=option ...] [key=value ...]{more}",
        "",
        "settings:",
    ]
    for key, value in content.items():
        if key not in ("defaults", "hydra"):
            shown = _KEY if "${" in str(value) or value == "???" else OmegaConf.to_yaml([value])[2:].strip()
            lines += _entry(f"{key!s}={shown}", comments[str(key)], 29)
    lines += ["", "groups (* marks the default):"]
    chosen = {re.sub("^override /?", "", str(key)): each[key] for each in listed for key in each}
    folders = _folders(arguments)
    for group, default in chosen.items():
        if group in comments:
            lines.append(f"  {group}: {comments[group]}")
            for option in options(group, arguments):
                text = _first_line(folders, f"{group}/{option}.yaml")
                if text or not group.startswith("hydra/"):  # Hydra's own options have no file
                    lines += _entry(f"{'*' if option == default else ' '} {option}", text, 22)
    lines += ["", f"The keys below a group: clipfuse {name} --cfg job [group=option ...]"]
    return "\n".join(lines)


def _entry(left: str, text: str, width: int) -> list[str]:
    """Return a text beside what it explains, or below it where that is too long."""
    left = f"  {left}"
    lines = textwrap.wrap(text, _COLUMNS - width, break_on_hyphens=False)
    if len(left) >= width:
        lines.insert(0, "")
    if not lines:
        return [left]
    return [f"{left:{width}}{lines[0]}".rstrip(), *(" " * width + line for line in lines[1:])]


def _comments(path: Path) -> dict[str, str]:
    """Return the comment beside each top-level key and each group of the defaults list."""
    pattern = re.compile(r"(?:  - (?:override /?)?)?([\w/]+): .*?\s# (.+)")
    matches = (pattern.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {found[1]: found[2] for found in matches if found}


def _first_line(folders: Sequence[Traversable], name: str) -> str:
    """Return the first comment line of a configuration file; empty if it begins otherwise."""
    for folder in folders:
        file = folder.joinpath(*name.split("/"))
        if file.is_file():
            for line in file.read_bytes().decode("utf-8", "replace").splitlines():
                if not re.match(r"#\s*@package", line):
                    return line.lstrip("#").strip() if line.startswith("#") else ""
    return ""


def _folders(arguments: Sequence[str]) -> list[Traversable]:
    """Return the folders in which Hydra looks for options: given words, our own, installed plugins."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        places = [each.path for each in GlobalHydra.instance().config_loader().get_search_path().get_path()]
    for override in OverridesParser.create().parse_overrides(search_words(arguments)):
        value = override.value()
        places += [str(each) for each in (value if isinstance(value, list) else [value])]
    folders: list[Traversable] = []
    for place in places:
        scheme, _, rest = place.rpartition("://")
        if scheme == "pkg":
            folders.append(files(rest))
        elif scheme in ("", "file"):
            folders.append(Path(rest))
    return folders
