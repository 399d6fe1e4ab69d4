"""The fairness contract: what must agree between runs, and what tells them apart.

One list, read by three: `clipfuse compare` refuses runs that differ in what must agree, and names rows by
what distinguishes them; a resumed run must agree with its checkpoint in all that its numbers depend on.

Keys are the dotted ones of a run's `config.yaml`. The first rule that matches a key decides; a key that none
matches must agree, so that a new setting is never free by oversight. Own design: papers list what they kept
the same, which a program cannot check.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from clipfuse.errors import UserError
from clipfuse.ops.settings import leaves

# What must agree, by the names that `clipfuse compare --mix` takes.
KINDS = (
    *("protocol", "split", "budget", "data", "network", "optimizer", "tuning", "schedule", "clipping"),
    *("averaging", "noise", "precision", "clip", "trainer", "callbacks", "versions", "unknown"),
)
ROW = "row"
HARMLESS = "harmless"


@dataclass(frozen=True)
class Rule:
    """What is decided about some keys.

    Attributes:
        keys: separated by spaces; each stands for what lies below it, too, and `*` for anything.
        compare: one of `KINDS`, where all runs must agree; `ROW`, what makes another row of the table; or
            `HARMLESS`, what runs of one row may differ in.
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
    Rule("overwrite", HARMLESS, "said of the folder, not of the run", resume=True),
    Rule("checkpoint auto_resume", HARMLESS, "a resumed run equals one in one go, bit for bit", resume=True),
    Rule("objective", HARMLESS, "what a sweeper is told; compare reads the scores themselves", resume=True),
    Rule("test", HARMLESS, "a run without a test is left out", resume=True),
    Rule("seed loss.seed loss.*.seed", HARMLESS, "the runs of a row are its repetitions over seeds"),
    Rule("validate_every", HARMLESS, "validation changes no weight, and the test scores the last ones"),
    # The loss, with the solver that trains it.
    Rule("loss", ROW, "what is compared"),
    Rule("solver", ROW, "a loss with a lower level is the loss and how it is solved"),
    Rule("clip", HARMLESS, "may be chosen and not asked; loss.clip and clip_identity say what a loss asks"),
    Rule("clip_identity.weights_sha256", "clip", "losses that ask a CLIP ask the same one", shared=True),
    Rule("clip_identity", HARMLESS, "follows from the weights and loss.clip, or is absent with the CLIP"),
    # What the losses train, on what, and for how long.
    Rule("backbone", "network", "another network, or another start of it, fuses otherwise"),
    Rule("data.root data.*.root", HARMLESS, "a place; split_sha256 says what lies there", resume=True),
    Rule("data", "data", "other pictures are another task"),
    Rule("split_sha256", "split", "other pairs in training or test are another task"),
    Rule("split_of names_sha256 scenes", HARMLESS, "split_sha256 says it", resume=True),
    Rule("steps accumulate", "budget", "training longer, or on larger batches, is no merit of a loss"),
    Rule("loader.batch_size loader.crop_size", "budget", "seeing more is no merit of a loss"),
    Rule("trainer.devices trainer.num_nodes", "budget", "each device adds a batch to every update"),
    Rule("skip_nonfinite", "budget", "a batch left out is not trained on"),
    Rule("loader.workers loader.cache_mb", HARMLESS, "pairs are drawn by sample, not by worker", resume=True),
    Rule("loader", "data", "what draws and crops the pairs"),
    # How they train it.
    Rule("optimizer", "optimizer", "a rate that suits one loss alone decides the comparison"),
    Rule(
        "tuning", "tuning", "a loss that was tuned has had more training than one that was not", resume=True
    ),
    Rule("scheduler", "schedule", "a rate that falls otherwise is another training"),
    Rule("gradient_clip", "clipping", "a bound bears on losses with large gradients alone"),
    Rule("ema", "averaging", "averaged weights are another network, whatever the loss"),
    Rule("input_noise", "noise", "noise on the input regularises, whatever the loss"),
    Rule("trainer.precision", "precision", "coarser rounding changes what is learnt"),
    Rule("trainer.accelerator", HARMLESS, "rounds otherwise; devices are told, as times differ", resume=True),
    Rule("trainer.max_time", HARMLESS, "a run that it stops has seen fewer samples: budget", resume=True),
    Rule("trainer.log_every_n_steps", HARMLESS, "points of the curves", resume=True),
    Rule("trainer.enable_progress_bar", HARMLESS, "what is shown", resume=True),
    Rule("trainer.enable_model_summary", HARMLESS, "what is shown"),
    Rule("trainer", "trainer", "strategy, determinism and limits change what is computed"),
    Rule(
        f"{'._target_ '.join(_OURS)}._target_",
        "callbacks",
        "another class in the place of one that ships may do anything",
        resume=True,
        shared=True,
    ),
    Rule(
        " ".join(_OURS),
        HARMLESS,
        "those that ship show and write, and train nothing",
        resume=True,
    ),
    Rule("callbacks", "callbacks", "one of your own may change the training", resume=True),
    Rule("logger", HARMLESS, "writes down", resume=True),
    # How they are scored, and by which code.
    Rule("protocol", "protocol", "numbers of two conventions do not compare"),
    Rule("metrics.protocol", HARMLESS, "protocol says it with its version"),
    Rule("metrics.validation metrics.test", HARMLESS, "only metrics that all runs have are compared"),
    Rule("metrics.own", HARMLESS, "yours go by their names; what they compute is in no record"),
    Rule("metrics", "protocol", "other code scores otherwise"),
    Rule("versions.git_commit", HARMLESS, "most commits change no number; several are told", resume=True),
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


# Where the modules of ours that a record may name lay before: old package -> module -> package.
_MOVED = "clipfuse.engine."
_ROOMS = {
    "schedules": "training",
    "checkpoints": "training",
    "progress": "tracking",
    "notes": "tracking",
    "loggers": "tracking.csv_file",
    "wandb_run": "tracking",
    "callbacks": "runs.test_writer",
}


def present_name(target: str) -> str:
    """Return the present name of a class or function that an older record calls by where it lay then."""
    if not target.startswith(_MOVED):
        return target
    module, _, name = target.removeprefix(_MOVED).partition(".")
    room = _ROOMS.get(module, "training")
    return f"clipfuse.{room}.{name}" if "." in room else f"clipfuse.{room}.{module}.{name}"


# Options that came later: class -> argument -> what runs from before it did, which is its default.
CAME_LATER: Mapping[str, Mapping[str, Any]] = {
    "clipfuse.backbones.contourlet_autoencoder.ContourletAutoencoder": {"detail_gain": 1.0, "base_gain": 1.0},
    "clipfuse.losses.pixel.PixelLoss": {"difference_weight": 0.0},
    "clipfuse.data.folder.PairedFolder": {"scenes": None},
}


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's record by dotted keys, in the terms in which the rules compare.

    A path into the run folder is the same in every run; of the version of a package major and minor count, of
    our own all; of several CLIPs the weights of each. A run from before `tuning` declares none, and one from
    before an option of `CAME_LATER` has its default.

    Args:
        record: the content of `config.yaml`.
    """
    flat = {"tuning": None, **leaves(record)} if "tuning" not in record else leaves(record)
    folder = str(record.get("run_dir") or "")
    for key, value in list(flat.items()):
        if key.endswith("_target_"):
            flat[key] = present_name(str(value))
            later = CAME_LATER.get(str(value), {})
            flat = {key.removesuffix("_target_") + name: each for name, each in later.items()} | flat
    for key, value in flat.items():
        if folder not in ("", ".", "/") and isinstance(value, str) and f"{value}/".startswith(f"{folder}/"):
            flat[key] = "${run_dir}" + value[len(folder) :]
        elif key.startswith("versions.") and key not in ("versions.clipfuse", "versions.git_commit"):
            flat[key] = ".".join(str(value).split(".")[:2])
    clips = record.get("clip_identity")
    if isinstance(clips, list):
        del flat["clip_identity"]
        flat["clip_identity.weights_sha256"] = sorted(str(each.get("weights_sha256")) for each in clips)
    return flat


@dataclass(frozen=True)
class Tuning:
    """How one setting was chosen for each loss, declared in the run as `tuning`.

    Attributes:
        key: the setting, one of the optimiser's such as "optimizer.lr".
        grid: the values that were tried for every loss.
        rule: by what one of them was chosen.
        trials: the trainings that each value got.
    """

    key: str
    grid: tuple[float, ...]
    rule: str
    trials: str


def read_tuning(record: Mapping[str, Any], where: str = "") -> Tuning | None:
    """Return the tuning that a run declares, or None.

    Args:
        record: the run's configuration.
        where: what an error begins with, as "runs/1/config.yaml: ".

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
