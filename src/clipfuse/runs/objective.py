"""The objective: the score of a training by which a sweep selects."""

from typing import Any

from clipfuse.errors import UserError, did_you_mean

_PARTS = {"val/metric/": "validation", "test/": "test"}


def check_objective(name: str, metrics: Any, test: bool, loss: str | None = None) -> None:
    """Refuse an objective that a training cannot have, before it begins.

    Args:
        name: of the objective.
        metrics: of the training.
        test: whether it is tested.
        loss: name of its loss, whose terms are known when it is first computed; None: any loss.

    Raises:
        UserError: nothing logs it; lists what is logged.
    """
    if name.startswith("test/") and not test:
        raise UserError(
            f"objective is {name}, and test=false computes no scores on the test images; take one of "
            "validation, as val/metric/SSIM"
        )
    known = [f"{prefix}{each}" for prefix, part in _PARTS.items() for each in getattr(metrics, part).names]
    known = [each for each in known if test or not each.startswith("test/")]
    known += ["val/loss/total", "train/loss/total", "loss"]
    own = "" if loss is None else f"{loss}/"
    terms = tuple(f"{part}/{level}/{own}" for part in ("val", "train") for level in ("loss", "lower"))
    if name not in known and not name.startswith(terms):
        part = name.partition("/")[0]
        shown = [each for each in known if each.startswith(f"{part}/")] or known
        raise UserError(
            f"objective is {name}, which nothing logs.{did_you_mean(name, known)} "
            f"Known are {', '.join(shown)}, and val/loss/{loss or 'LOSS'}/TERM; take one of these, or "
            "add a metric to metrics"
        )


def check_selection(name: str, on_test: bool) -> None:
    """Refuse to select by test scores, which then no longer measure how good the result is on new images.

    Raises:
        UserError: it was not asked for twice.
    """
    if name.startswith("test/") and not on_test:
        raise UserError(
            f"this search would select by {name}, and the test images would then measure nothing; take one "
            "of validation, as objective=val/metric/SSIM, or add objective_on_test=true"
        )


def higher_is_better(name: str, metrics: Any) -> bool | None:
    """Return whether the objective is better if it is higher; None where that is not known."""
    for prefix, part in _PARTS.items():
        scorer = getattr(metrics, part)
        if (score := name.removeprefix(prefix)) in scorer.names:
            return bool(dict(scorer.items(keep_base=True, copy_state=False))[score].higher_is_better)
    return False if "loss" in name else None
