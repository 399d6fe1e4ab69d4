"""The configuration tree: its folder, its groups and their options."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from clipfuse.errors import UserError, did_you_mean
from clipfuse.runs.overrides import search_words


def conf_dir() -> Path:
    """Return the folder of the configuration tree: in the wheel, or beside `src` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "conf", package.parents[1] / "conf"]
    for folder in candidates:
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"the configuration tree is missing (looked in {candidates[0]}); install clipfuse again")


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
    """Return the groups of `conf/NAME.yaml` with all their options, and its settings."""
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{name}.yaml"), resolve=False)
    assert isinstance(content, dict)
    defaults = {
        key: value for entry in content["defaults"] if isinstance(entry, dict) for key, value in entry.items()
    }
    groups = {key: value for key, value in defaults.items() if not key.startswith("override ")}
    lines = [
        f"usage: clipfuse {name} [group=option ...] [key=value ...]{' [-m]' if name == 'train' else ''}",
        "",
        "groups, each with all its options:",
        *(f"  {group + ':':12}{', '.join(options(group, arguments))}" for group in groups),
        "",
        f"settings: {', '.join(key for key in map(str, content) if key not in ('defaults', 'hydra'))}",
        "",
        f"The defaults, and the keys below a group: clipfuse {name} --cfg job [group=option ...]",
    ]
    return "\n".join(lines)
