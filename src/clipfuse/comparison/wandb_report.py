"""The comparison as a report at W&B: table and verdict, beside interactive curves and images."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from clipfuse.comparison.zips import Folder, children
from clipfuse.errors import UserError
from clipfuse.types import SAMPLES_SEEN

_LOG = re.compile(r"run-.*\.wandb")
_ANSWER_S = 20  # seconds W&B may take to answer


def publish(
    place: str,
    title: str,
    text: str,
    variants: Mapping[str, Sequence[Folder]],
    metrics: Sequence[str],
    curves: Sequence[str],
) -> str:
    """Save a report over runs that are at W&B; return its address.

    Args:
        place: "ENTITY/PROJECT".
        title: title of the report.
        text: table and verdict, in markdown.
        variants: name of a variant -> its run folders, drawn as one line, mean and standard deviation.
        metrics: metrics of the test, one bar chart each.
        curves: logged keys such as "val/metric/SSIM", one line plot each.

    Raises:
        UserError: the package or a login is missing, W&B does not answer, or a run is not there.
    """
    entity, _, project = place.partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"--wandb {place}: expected ENTITY/PROJECT, as in the address of a W&B project")
    ids = {folder: _run_id(folder) for folders in variants.values() for folder in folders}
    try:
        import wandb
        import wandb_workspaces.expr as expr
        import wandb_workspaces.reports.v2 as wr
    except ImportError as error:
        raise UserError(
            f"--wandb needs a package that is missing ({error}): pip install 'clipfuse[wandb]'"
        ) from None
    try:
        if not wandb.login(prompt=False):
            raise UserError("--wandb: no W&B login is found; run `wandb login`, or take --html")
        found = wandb.Api(timeout=_ANSWER_S).runs(place, filters={"name": {"$in": list(ids.values())}})
        known = {run.id for run in found}
        if absent := [folder for folder, each in ids.items() if each not in known]:
            raise UserError(
                f"{len(absent)} of {len(ids)} runs are not in {place}, such as that of {absent[0]}; "
                f"upload them first: wandb sync {shlex.quote(str(absent[0] / 'wandb'))}"
            )
        runs = []
        for name, folders in variants.items():
            chosen = expr.And(expr.Metric("ID").isin([ids[folder] for folder in folders]))
            # All have one loss, which is the job type: grouped by it, a variant is one line.
            runs.append(wr.Runset(entity, project, name, filters=chosen, groupby=["JobType"]))
        spread: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        panels: list[Any] = [
            *(wr.BarPlot(title=f"test {name}", metrics=[f"test/{name}"], **spread) for name in metrics),
            *(wr.LinePlot(title=key, x=SAMPLES_SEEN, y=[key], **spread) for key in curves),
            wr.MediaBrowser(media_keys=["val/samples", "test/panel"]),
            wr.RunComparer(diff_only="split"),
        ]
        blocks: list[Any] = [wr.MarkdownBlock(text), wr.PanelGrid(runsets=runs, panels=panels)]
        return str(wr.Report(entity=entity, project=project, title=title, blocks=blocks).save().url)
    except UserError:
        raise
    except Exception as error:  # the library raises whatever failed on its way to the server
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"--wandb {place}: W&B cannot be reached or refuses ({reason}); try again later, or take --html, "
            "which needs no server"
        ) from error


def _run_id(folder: Folder) -> str:
    place = folder / "wandb"
    runs = [run for run in children(place) if "run-" in run.name and run.is_dir()] if place.is_dir() else []
    logs = {run.name: log.name for run in runs for log in children(run) if _LOG.fullmatch(log.name)}
    if not logs:
        raise UserError(f"{folder} was trained without logger=wandb, so it is not at W&B; leave it out")
    return logs[max(logs)].removeprefix("run-").removesuffix(".wandb")
