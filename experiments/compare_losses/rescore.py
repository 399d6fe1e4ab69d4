"""Score the kept runs again under the present protocol, from the images of trainings that repeat them.

    python -m experiments.compare_losses.rescore --roadscene data/roadscene --runs runs/again [--sets
    roadscene]

The images of the study are not kept; its settings and seeds are. `--runs` holds the same trainings once
more, as `SET/LOSS/SEED`. The images are accepted as those of the study only where every metric whose
definition has not changed gives the very numbers that were kept; others are refused, except for the losses
that `--replace` names, whose code has changed since: their trainings replace the kept ones, whole.
Then `test/per_image.csv` and `test/metrics.json` of the kept run get the present protocol's metrics, its
`config.yaml` gets the protocol's version, and `results/SET.zip` is written again.
"""

import dataclasses
import shutil
import zipfile
from collections.abc import Collection, Mapping
from math import isfinite, isnan, nan
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from experiments.common import load_sources, make_parser, save_zip
from tqdm import tqdm

from clipfuse.comparison.collect import Run, find_runs
from clipfuse.data.pairs import PairSource
from clipfuse.data.transforms import whole
from clipfuse.errors import UserError
from clipfuse.files import write_atomically
from clipfuse.images import read_image
from clipfuse.metrics import FusionMetrics
from clipfuse.metrics.protocols import STRICT
from clipfuse.ops.depth import to_unit
from clipfuse.runs.scores import write_scores

HERE = Path(__file__).parent
Scores = dict[str, dict[str, float]]  # image -> metric -> score


def score(metrics: FusionMetrics, source: PairSource, folder: Path) -> Scores:
    """Score a folder of fused luma against the test pairs of a data set."""
    scores: Scores = {}
    for name in source.parts()["test"]:
        batch = whole(source.load(name), name)
        fused = to_unit(read_image(folder / f"{name}.png"))
        row = metrics.score_all({"fused": fused[None]}, batch.infrared, batch.visible, batch.target_mask)
        scores[name] = row["fused"]
    return scores


def check(run: Run, scores: Mapping[str, Mapping[str, float]], folder: Path) -> int:
    """Require that what was kept comes out again; return how many numbers were compared.

    Raises:
        UserError: an image is missing, or a number differs by more than rounding in float64 leaves (1e-9 of
            it).
    """
    compared = 0
    for metric, kept in run.scores.items():
        if STRICT.since.get(metric, 1) > 1:
            continue
        for image, before in kept.items():
            now = scores[image][metric]
            if not (isnan(before) and not isfinite(now)) and abs(now - before) > 1e-9 * max(1, abs(before)):
                raise UserError(
                    f"{folder / image}.png: {metric} is {now!r}, {run.path} has {before!r}; these are "
                    "not the images of the study: repeat the training with the settings of its config.yaml"
                )
            compared += 1
    return compared


def write(run: Run, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Replace the scores of a kept run, as a test of the present version writes them."""
    rows = [{"name": image, "scene": run.scenes[image], **row} for image, row in scores.items()]
    columns = list(next(iter(scores.values())))
    defined = {name: [row[name] for row in scores.values() if isfinite(row[name])] for name in columns}
    means = {name: fmean(values) if values else nan for name, values in defined.items()}
    undefined = {name: len(scores) - len(values) for name, values in defined.items()}
    write_scores(run.path / "test", rows, STRICT, means, undefined)
    keep_config(run, {**run.config, "protocol": str(STRICT)})


def keep_config(run: Run, config: Mapping[str, Any]) -> None:
    """Write the configuration of a kept run."""
    with write_atomically(run.path / "config.yaml") as file:
        yaml.safe_dump(dict(config), file, sort_keys=False, allow_unicode=True)


def replace(run: Run, again: Path) -> Run:
    """Put a repeated training in the place of a kept run, under its name and with its declared tuning."""
    text = (again / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text.replace(str(again), str(run.config["run_dir"])))
    config |= {"tuning": run.config["tuning"], "overwrite": False, "metrics": run.config["metrics"]}
    keep_config(run, config)
    for name in ("status.json", "metrics.csv"):
        shutil.copyfile(again / name, run.path / name)
    return dataclasses.replace(run, config=config)


def rescore(folder: Path, again: Path, source: PairSource, replaced: Collection[str]) -> None:
    """Score the kept runs below a folder again, from the repeated trainings below another."""
    metrics = FusionMetrics(STRICT)
    runs = [run for run in find_runs([folder]) if run.protocol != str(STRICT)]
    for run in tqdm(runs, unit="run"):
        repeated = again / run.label
        scores = score(metrics, source, repeated / "test/fused")
        if run.label.split("/")[0] in replaced:
            write(replace(run, repeated), scores)
            tqdm.write(f"{run.label}: replaced")
        else:
            compared = check(run, scores, repeated / "test/fused")
            write(run, scores)
            tqdm.write(f"{run.label}: {compared} numbers came out again")


def main() -> None:
    """Score the kept zips again."""
    parser = make_parser(__doc__, roadscene=True)
    parser.add_argument(
        "--runs", required=True, type=Path, help="the same trainings: SET/LOSS/SEED/test/fused"
    )
    parser.add_argument("--sets", nargs="+", default=["roadscene", "synthetic"])
    parser.add_argument("--replace", nargs="+", default=[], metavar="LOSS", help="whose trainings are taken")
    options = parser.parse_args()
    sources = load_sources(options.roadscene, train=400, val=16, test=24)
    for name, source in {"roadscene": sources["real"], "synthetic": sources["rendered"]}.items():
        kept = HERE / f"results/{name}.zip"
        if name in options.sets:
            with TemporaryDirectory() as folder, zipfile.ZipFile(kept) as archive:
                archive.extractall(folder)
                rescore(Path(folder), options.runs / name, source, options.replace)
                save_zip(Path(folder), kept)


if __name__ == "__main__":
    main()
