"""What has no effect in a run is named before it trains: one sentence for each such setting."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.callbacks import Callback, EarlyStopping

from clipfuse.bilevel import Joint, Solver
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.runs.contract import default_of
from clipfuse.training.stepping import lower_parameters


def notices(
    config: Mapping[str, Any], loss: FusionLoss, solver: Solver, callbacks: Sequence[Callback]
) -> list[str]:
    """Return a sentence for each setting that has no effect in a run, and what to change.

    A setting is named where it was chosen; most have no effect only together with others, so that none of
    them is wrong by itself.

    Args:
        config: the run's whole configuration in plain types.
        loss: names those of its own, by `FusionLoss.notices`.
        solver: with which it is trained.
        callbacks: of the run.
    """
    steps, every = int(config["steps"]), int(config["validate_every"])
    found = loss.notices(steps) + _chroma(config.get("backbone") or {}, loss)
    if every > steps:
        found.append(
            f"validate_every={every} lies beyond the {steps} updates of this run, which is validated once"
        )
    found += _schedule(config.get("scheduler") or {}, steps)
    found += _solver(config.get("solver") or {}, solver, loss, steps)
    rows = config["trainer"].get("log_every_n_steps", 50)
    if rows > steps:
        found.append(f"trainer.log_every_n_steps={rows}: the curves get no row of the {steps} updates")
    if (decay := config.get("ema")) and 1 / (1 - decay) > steps:
        found.append(
            f"ema={decay} averages over some {1 / (1 - decay):.0f} updates, and the run has {steps}: the "
            f"averaged weights keep much of the first ones; try ema={max(1 - 10 / steps, 0.5):.3g}"
        )
    clip = config.get("clip") or {}
    idle = not any(hasattr(part, "clip") for part in loss.modules())
    if idle and clip.get("model", default_of("clip.model")) != default_of("clip.model"):
        found.append(f"clip.model={clip['model']} has no effect: the loss '{loss.name}' uses no CLIP")
    keys = [key for key, node in (config.get("callbacks") or {}).items() if node is not None]
    for key, callback in zip(keys, callbacks, strict=True):
        validations = -(-steps // every)
        if isinstance(callback, EarlyStopping) and callback.patience >= validations:
            found.append(
                f"callbacks.{key}.patience={callback.patience} is never used up: the run has {validations} "
                f"validations; lower it or validate_every"
            )
    return found


def _chroma(backbone: Mapping[str, Any], loss: FusionLoss) -> list[str]:
    if backbone.get("chroma") is not False:  # a network of the user's own may learn it without such a key
        return []
    weights = {part: getattr(part, "chroma_weight", 0) for part in loss.modules()}
    return [
        f"{part.place}.chroma_weight={weight} has no effect: the network keeps the chroma of the visible "
        "image; backbone.chroma=true lets it learn"
        for part, weight in weights.items()
        if isinstance(part, FusionLoss) and weight
    ]


def _schedule(scheduler: Mapping[str, Any], steps: int) -> list[str]:
    found = []
    warmup = scheduler.get("warmup")
    if isinstance(warmup, int | float) and warmup:
        if round(warmup * steps) >= steps:
            found.append(
                f"scheduler.warmup={warmup}: the learning rate rises through the whole run, and reaches "
                "optimizer.lr at its end at best; it is a share of the updates"
            )
        elif round(warmup * steps) == 0 and warmup != default_of("warmup", scheduler.get("_target_")):
            found.append(f"scheduler.warmup={warmup} has no effect: it is less than one of {steps} updates")
    places = [round(share * steps) for share in scheduler.get("at") or []]
    if late := sum(place >= steps for place in places):
        found.append(
            f"scheduler.at: {late} of {len(places)} milestones lie at the end of the run, without effect"
        )
    return found


def _solver(chosen: Mapping[str, Any], solver: Solver, loss: FusionLoss, steps: int) -> list[str]:
    name, found = str(chosen.get("_target_")).rpartition(".")[2], []
    if isinstance(solver, Joint) and not lower_parameters(loss):
        none = f"has no effect: the loss '{loss.name}' has no lower level in this run"
        if name != "Joint":
            return [f"solver._target_={name} {none}; it is trained as by solver=joint"]
        weight = chosen.get("lower_weight", 1.0)
        return [f"solver.lower_weight={weight} {none}"] if weight != default_of("solver.lower_weight") else []
    own = [part for part in loss.modules() if isinstance(part, BilevelLoss) and not _is_ours(part)]
    if isinstance(solver, Joint) and own:
        found.append(
            f"the loss '{own[0].name}' has a lower level, which solver=joint moves together with the network "
            "at its learning rate, and no nested solver was chosen; take solver=value_penalty or alternate"
        )
    stages = {getattr(part, "warmup", None) for part in loss.modules()}  # which a loss names itself
    if chosen.get("delay", 0) >= steps and chosen["delay"] not in stages:
        found.append(
            f"solver.delay={chosen['delay']} outlasts the {steps} updates of this run: the weights of the "
            "solver never change"
        )
    if chosen.get("every", 1) > steps:
        found.append(
            f"solver.every={chosen['every']} lies beyond the {steps} updates of this run: the lower level is "
            "solved once"
        )
    return found


def _is_ours(loss: FusionLoss) -> bool:
    """Whether the configuration of a loss chooses its solver, as that of each of ours does."""
    return type(loss).__module__.startswith("clipfuse.")
