"""The fairness contract: which settings must agree between runs, and which distinguish them.

One list for three uses: `clipfuse compare` refuses runs that differ in a setting that must agree, and names
rows by the settings that distinguish them; a resumed run must agree with its checkpoint in every setting that
its numbers depend on.

Keys are the dotted ones of a run's `config.yaml`. The first rule that matches a key decides; a key that no
rule matches must agree, so that a new setting is never free by oversight. Own design: papers list what they
kept the same, which a program cannot check.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import yaml

from clipfuse.errors import UserError
from clipfuse.files import conf_dir
from clipfuse.ops.settings import leaves

# What must agree, under the names that `clipfuse compare --mix` takes.
KINDS = (
    *("protocol", "split", "budget", "data", "network", "optimizer", "tuning", "schedule", "clipping"),
    *("averaging", "noise", "precision", "clip", "trainer", "callbacks", "versions", "unknown"),
)
ROW = "row"
HARMLESS = "harmless"
_BUNDLED = "micro"  # the CLIP whose weights the package brings
_CLIP_MODELS = (["clip", "model"], ["clip_identity", "model"])  # how keys that name a CLIP end


@dataclass(frozen=True)
class Rule:
    """A decision about some keys.

    Attributes:
        keys: separated by spaces; each also stands for the keys below it, and `*` for anything.
        compare: one of `KINDS`, where all runs must agree; `ROW`, where a difference makes another row of
            the table; or `HARMLESS`, where the runs of one row may differ.
        reason: why.
        resume: whether a run that goes on may change it.
        shared: whether only the runs that have the key must agree in it.
    """

    keys: str
    compare: str
    reason: str
    resume: bool = False
    shared: bool = False


_OURS = tuple(f"callbacks.{name}" for name in ("progress", "best", "last", "test", "notes"))

RULES = (
    # How a run is started and what it is called.
    Rule("name run_dir", HARMLESS, "a label and a place", resume=True),
    Rule("overwrite", HARMLESS, "concerns the folder, not the run", resume=True),
    Rule("checkpoint auto_resume", HARMLESS, "a resumed run equals one in one go, bit for bit", resume=True),
    Rule(
        "objective objective_on_test",
        HARMLESS,
        "is for sweeps; compare reads the scores themselves",
        resume=True,
    ),
    Rule("test", HARMLESS, "a run without a test is left out", resume=True),
    Rule("seed loss.seed loss.*.seed", HARMLESS, "the runs of a row are its repetitions over seeds"),
    Rule(
        "downstream downstream_seeds",
        HARMLESS,
        "is done after the training; its results name it",
        resume=True,
    ),
    Rule("validate_every", HARMLESS, "validation changes no weight, and the test scores the last weights"),
    # The loss, with the solver that trains it.
    Rule("loss", ROW, "what is compared"),
    Rule("parameter_groups", ROW, "rates of its own parameters are a part of the loss"),
    Rule("loss_files", ROW, "the same path may hold other weights"),
    Rule("solver", ROW, "a two-level loss is compared together with its solver"),
    Rule(
        "clip",
        HARMLESS,
        "loss.clip and clip_identity record the CLIP that a loss uses",
    ),
    Rule("clip_identity.weights_sha256", "clip", "losses that use a CLIP must use the same one", shared=True),
    Rule("clip_identity", HARMLESS, "follows from the weights and loss.clip, or is absent"),
    # What the losses train, on what, and for how long.
    Rule("backbone", "network", "another network, or other initial weights, fuse otherwise"),
    Rule("data.root data.*.root", HARMLESS, "a place; split_sha256 identifies its content", resume=True),
    Rule(
        "data.labels data.*.labels data.captions data.*.captions",
        HARMLESS,
        "labels_sha256 records the labels that a loss sees",
        resume=True,
    ),
    Rule("labels_sha256", "data", "losses that see labels must see the same ones", shared=True),
    Rule("data", "data", "other images are another task"),
    Rule("split_sha256", "split", "other pairs in training or test are another task"),
    Rule("split_of names_sha256 scenes pairs", HARMLESS, "split_sha256 covers it", resume=True),
    Rule("steps accumulate", "budget", "training longer, or on larger batches, is no merit of a loss"),
    Rule("loader.batch_size loader.crop_size", "budget", "more pixels per update are no merit of a loss"),
    Rule("trainer.devices trainer.num_nodes", "budget", "each device adds a batch to every update"),
    Rule("skip_nonfinite", "budget", "a batch left out is not trained on"),
    Rule("loader.workers loader.cache_mb", HARMLESS, "pairs are drawn by sample, not by worker", resume=True),
    Rule("loader", "data", "what draws and crops the pairs"),
    # How they train it.
    Rule("optimizer", "optimizer", "a rate that suits one loss alone decides the comparison"),
    Rule(
        "tuning", "tuning", "a loss that was tuned has had more training than one that was not", resume=True
    ),
    Rule("scheduler", "schedule", "another schedule is another training"),
    Rule("gradient_clip", "clipping", "a bound affects only losses with large gradients"),
    Rule("ema", "averaging", "averaged weights are another network, whatever the loss"),
    Rule("input_noise", "noise", "noise on the input regularises, whatever the loss"),
    Rule("trainer.precision", "precision", "coarser rounding changes what is learnt"),
    Rule(
        "trainer.accelerator",
        HARMLESS,
        "rounds otherwise; compare names the devices",
        resume=True,
    ),
    Rule("threads", HARMLESS, "rounds otherwise; compare names the numbers", resume=True),
    Rule("started_in", HARMLESS, "a place", resume=True),
    Rule("trainer.max_time", HARMLESS, "a run that it stops has fewer samples: budget", resume=True),
    Rule("trainer.log_every_n_steps", HARMLESS, "points of the curves", resume=True),
    Rule("trainer.enable_progress_bar", HARMLESS, "what is shown", resume=True),
    Rule("trainer.enable_model_summary", HARMLESS, "what is shown"),
    Rule("trainer", "trainer", "strategy, determinism and limits change what is computed"),
    Rule(
        f"{'._target_ '.join(_OURS)}._target_",
        "callbacks",
        "another class in the place of ours may do anything",
        resume=True,
        shared=True,
    ),
    Rule(
        " ".join(_OURS),
        HARMLESS,
        "our own callbacks show and write, and train nothing",
        resume=True,
    ),
    Rule("callbacks", "callbacks", "your own callback may change the training", resume=True),
    Rule("logger", HARMLESS, "a logger writes, and trains nothing", resume=True),
    # How they are scored, and by which code.
    Rule("protocol", "protocol", "numbers of two conventions do not compare"),
    Rule("metrics.protocol", HARMLESS, "protocol names it with its version"),
    Rule("metrics.validation metrics.test", HARMLESS, "only metrics that all runs have are compared"),
    Rule("metrics.lpips_weights", HARMLESS, "a place; lpips_sha256 identifies its content", resume=True),
    Rule("lpips_sha256", "protocol", "LPIPS of two networks does not compare", shared=True),
    Rule("metrics.own", HARMLESS, "own metrics are compared by name; their code is in no record"),
    Rule("metrics", "protocol", "other code scores otherwise"),
    Rule(
        "versions.git_commit",
        HARMLESS,
        "most commits change no number; compare names them",
        resume=True,
    ),
    Rule("versions", "versions", "the same operation in another version may round otherwise", resume=True),
)
_UNKNOWN = Rule("*", "unknown", "no rule decides it")


@cache
def decide(key: str) -> Rule:
    """Return the rule that decides about a dotted key of a run's record."""
    for rule in RULES:
        if any(fnmatchcase(key, each) or fnmatchcase(key, f"{each}.*") for each in rule.keys.split()):
            return rule
    return _UNKNOWN


# How names in the records of older runs begin, and how they begin now; the first that fits counts.
_MOVED = {
    "clipfuse.engine.loggers.RunWandbLogger": "clipfuse.tracking.wandb_run.RunWandbLogger",
    "clipfuse.engine.loggers.": "clipfuse.tracking.csv_file.",
    "clipfuse.engine.notes.LossNotes": "clipfuse.tracking.artifacts.ArtifactWriter",
    "clipfuse.engine.progress.": "clipfuse.tracking.progress.",
    "clipfuse.engine.wandb_run.": "clipfuse.tracking.wandb_run.",
    "clipfuse.engine.callbacks.": "clipfuse.runs.results.",
    "clipfuse.engine.": "clipfuse.training.",
}


def present_name(target: str) -> str:
    """Return the present name of a class or function, given one that this or an older version recorded."""
    old = next((old for old in _MOVED if target.startswith(old)), "")
    return _MOVED.get(old, "") + target.removeprefix(old)


@cache
def _defaults() -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]:
    """Return the settings and groups of `conf/train.yaml`, and the arguments of our classes, by their files.

    An argument or a setting that is added gets as its default what was done before: a record without it is of
    an earlier version, and means this value.
    """
    classes: dict[str, dict[str, Any]] = {}

    def visit(node: Any) -> None:
        if isinstance(node, Mapping):
            target = str(node.get("_target_"))
            if target.startswith("clipfuse."):
                plain = {key: value for key, value in node.items() if _is_plain(value) and key[:1] != "_"}
                classes[target] = plain | classes.get(target, {})
            for child in node.values():
                visit(child)

    files = sorted(conf_dir().glob("*/*.yaml"))
    contents = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    for content in sorted((each for each in contents if each), key=lambda each: "defaults" in each):
        visit(content)  # a file that inherits holds what differs
    top = yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8"))
    settings = {key: value for key, value in top.items() if _is_plain(value) and key != "defaults"}
    for group, option in [
        pair for each in top["defaults"] if isinstance(each, dict) for pair in each.items()
    ]:
        file = conf_dir() / group / f"{option}.yaml"
        chosen = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if (target := chosen.get("_target_")) in classes:
            own = {key: value for key, value in chosen.items() if _is_plain(value) and key != "defaults"}
            settings |= {f"{group}.{key}": value for key, value in {**classes[target], **own}.items()}
    return settings, classes


def default_of(key: str, target: str | None = None) -> Any:
    """Return the default of a dotted setting, or of an argument of one of our classes; None: it has none."""
    settings, classes = _defaults()
    return settings.get(key) if target is None else classes.get(target, {}).get(key)


def _is_plain(value: Any) -> bool:
    return not isinstance(value, Mapping) and "${" not in str(value) and value != "???"


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's record by dotted keys, in the terms in which the rules compare.

    A path into the run folder is the same in every run. The version of a package counts by major and minor
    number, our own in full. Several CLIPs count by the weights of each. What the record of an earlier version
    lacks has its default; where the bundled CLIP was an earlier edition, its present name.

    Args:
        record: the content of `config.yaml`.
    """
    settings, classes = _defaults()
    given = record if "loss" in record else {key.partition(".")[0] for key in settings}
    flat = {key: each for key, each in settings.items() if key.partition(".")[0] not in given} | leaves(
        record
    )
    folder = str(record.get("run_dir") or "")
    for key, value in list(flat.items()):
        if key.endswith("_target_"):
            flat[key] = present_name(str(value))
            node = key.removesuffix("_target_")
            for name, each in classes.get(flat[key], {}).items():
                if not any(other.startswith(f"{node}{name}.") for other in flat):
                    flat.setdefault(node + name, each)
    for key, value in flat.items():
        if folder not in ("", ".", "/") and isinstance(value, str) and f"{value}/".startswith(f"{folder}/"):
            flat[key] = "${run_dir}" + value[len(folder) :]
        elif key.startswith("versions.") and key not in ("versions.clipfuse", "versions.git_commit"):
            flat[key] = ".".join(str(value).split(".")[:2])
    clips = record.get("clip_identity")
    if edition := earlier_edition(record):
        for key in [each for each in flat if each.split(".")[-2:] in _CLIP_MODELS]:
            pretrained = f"{key.removesuffix('model')}pretrained"
            if flat[key] == _BUNDLED and flat.get(pretrained) is None:
                flat[pretrained] = edition
    if isinstance(clips, list):
        del flat["clip_identity"]
        flat["clip_identity.weights_sha256"] = sorted(str(each.get("weights_sha256")) for each in clips)
    return flat


def earlier_edition(record: Mapping[str, Any]) -> str | None:
    """Return the present name of the bundled CLIP of a run, as in `clip=micro_1`, where it is not the newest.

    `clip=micro` is the newest edition, so a record means by it the one whose version it holds.

    Args:
        record: the content of `config.yaml`.
    """
    clips = record.get("clip_identity")
    for each in clips if isinstance(clips, list) else [clips]:
        if isinstance(each, Mapping) and each.get("model") == _BUNDLED and each.get("pretrained") is None:
            name = f"{_BUNDLED}_{each.get('version')}"
            if (conf_dir() / "clip" / f"{name}.yaml").is_file():
                return name
    return None


@dataclass(frozen=True)
class Tuning:
    """How one setting was chosen for each loss; a run declares it as `tuning`.

    Attributes:
        key: a setting of the optimiser, such as "optimizer.lr".
        grid: the values that were tried for every loss.
        rule: the criterion by which one of them was chosen.
        trials: the number of trainings for each value.
    """

    key: str
    grid: tuple[float, ...]
    rule: str
    trials: str


def read_tuning(record: Mapping[str, Any], where: str = "") -> Tuning | None:
    """Return the tuning that a run declares, or None.

    Args:
        record: the run's configuration.
        where: beginning of every error, such as "runs/1/config.yaml: ".

    Raises:
        UserError: it is incomplete, or the run's value is not one of the grid.
    """
    node = record.get("tuning")
    if node is None:
        return None
    fields = ("key", "grid", "rule", "trials")
    if not isinstance(node, Mapping) or set(node) != set(fields):
        raise UserError(
            f"{where}tuning is {node!r}; expected null or the keys {', '.join(fields)}, as in "
            "{key: optimizer.lr, grid: [0.001, 0.003], rule: best SSIM on validation, trials: one seed each}"
        )
    key, grid = str(node["key"]), node["grid"]
    if decide(key).compare != "optimizer":
        raise UserError(f"{where}tuning.key is {key}; expected a setting of the optimiser, as optimizer.lr")
    numbers = isinstance(grid, list) and all(isinstance(each, int | float) for each in grid)
    if not numbers or len(grid) < 2:
        raise UserError(f"{where}tuning.grid is {grid!r}; expected the two or more numbers that were tried")
    for field in ("rule", "trials"):
        if not isinstance(node[field], str) or not node[field].strip():
            raise UserError(f"{where}tuning.{field} is {node[field]!r}; expected words that say it")
    value = leaves(record).get(key)
    if value not in grid:
        raise UserError(
            f"{where}{key} is {value!r}, which is not in tuning.grid ({', '.join(map(str, grid))}); give one "
            "of those that were tried, or leave tuning out"
        )
    return Tuning(key, tuple(grid), node["rule"].strip(), node["trials"].strip())
