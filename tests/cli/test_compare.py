"""`clipfuse compare` from the command line."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clipfuse.cli.sources import score_trivial
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.scores import with_lpips
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.metrics.protocols import STRICT
from clipfuse.ops.lpips import load_lpips
from clipfuse.ops.vgg import _layers

Command = Callable[..., tuple[int, str, str]]
Factory = Callable[..., Path]
DATA = {"split_sha256": SyntheticPairs(train=6, val=1, test=6, size=64).fingerprint()}


@pytest.fixture
def root(sweep: Factory) -> Path:
    for seed in (0, 1):
        sweep(seed=seed, options=DATA)
        folder = sweep("ldfusion", seed=seed, level=1.0, options=DATA)
    return folder


def test_prints_table_and_verdict_and_writes_every_format(
    clipfuse: Command, root: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"out/table.{name}" for name in ("markdown", "csv", "latex")}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    code, out, _ = clipfuse("compare", str(root), *options)
    assert code == 0
    assert (
        "No winner is named: 2 seeds per loss are fewer than 4, and 6.0 effective scenes are fewer than 10."
        in out
    )
    written = files["markdown"].read_text()
    assert written[written.index("| metric") :] in out
    for name, mark in {"markdown": "> ", "latex": "% "}.items():  # no table without its answer
        assert f"{mark}No winner is named" in files[name].read_text()
        assert f"{mark}Ranked by classic-1, which can be bought" in files[name].read_text()
    rows = list(csv.DictReader(files["csv"].open()))
    assert all("Ranked by classic-1, which can be bought" in row["notes"] for row in rows)
    trivial = {"infrared", "visible", "average", "maximum"}
    assert {row["method"] for row in rows} == {"pixel", "ldfusion", *trivial}
    scores = {(row["method"], row["metric"]): row["mean"] for row in rows}
    assert float(scores["infrared", "MSE"]) > float(scores["average", "MSE"]) > 0
    assert "\\toprule" in files["latex"].read_text()
    before = files["csv"].read_bytes()
    code, _, error = clipfuse("compare", str(root), "--csv", str(files["csv"]))
    assert code == 2
    assert "is there already" in error
    assert clipfuse("compare", str(root), "--csv", str(files["csv"]), "--overwrite")[0] == 0
    assert files["csv"].read_bytes() == before


def test_trivial_scores_are_those_of_the_metrics(clipfuse: Command, root: Path, tmp_path: Path) -> None:
    from clipfuse.data.transforms import whole
    from clipfuse.metrics import FusionMetrics, trivial_fusions

    clipfuse("compare", str(root), "--csv", str(tmp_path / "table.csv"), "--metrics", "SSIM")
    source, metrics = SyntheticPairs(train=6, val=1, test=6, size=64), FusionMetrics("strict", "SSIM")
    for index in range(6):
        batch = whole(source.load(f"test-{index:06d}"))
        infrared, visible = batch.infrared, batch.visible
        metrics.update(trivial_fusions(infrared, visible)["trivial:maximum"], infrared, visible)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    (row,) = [row for row in rows if row["method"] == "maximum"]
    assert float(row["mean"]) == pytest.approx(float(metrics.compute()["SSIM"]), rel=1e-12)


def test_saved_sources_serve_where_the_data_is_gone(clipfuse: Command, sweep: Factory) -> None:
    gone = {"data": {"_target_": "clipfuse.data.folder.PairedFolder", "root": "/not/here"}}
    root = sweep(options=gone)
    code, out, _ = clipfuse("compare", str(root), "--metrics", "SSIM")
    assert code == 0
    assert "as the test pairs are not here (data: /not/here: no such folder" in out
    assert "maximum" not in out
    sweep(seed=1, options=gone, pictures=64)
    assert "maximum" in clipfuse("compare", str(root), "--metrics", "SSIM")[1]
    assert "maximum" not in clipfuse("compare", str(root), "--metrics", "SSIM", "--no-trivial")[1]


def test_a_run_folder_cannot_have_code_run(clipfuse: Command, sweep: Factory, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    root = sweep(options={"data": {"_target_": "os.mkdir", "path": str(victim)}})
    code, out, _ = clipfuse("compare", str(root))
    assert code == 0
    assert "wants to run code of 'os'" in out
    assert not victim.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--baseline", "ldfusoin"], "Did you mean 'ldfusion'?"),
        (["--metrics", "SSMI"], "Did you mean 'SSIM'?"),
        (["--metrics", "Qabf"], "not all runs were scored by Qabf; all have MSE, SSIM, VIF"),
        (["--mix", "seeds"], "expected some of protocol, split, budget"),
        (["--csv", "a", "--latex", "a"], "two outputs are one file"),
        (["missing"], "missing: no such folder"),
    ],
)
def test_mistakes_are_explained(clipfuse: Command, root: Path, words: list[str], message: str) -> None:
    code, _, error = clipfuse("compare", str(root), *words)
    assert code == 2
    assert message in error
    assert "Traceback" not in error


def test_mixed_runs_are_refused_or_warned_of(clipfuse: Command, sweep: Factory) -> None:
    root = sweep()
    sweep("ldfusion", status={"samples_seen": 20})
    code, _, error = clipfuse("compare", str(root))
    assert code == 2
    assert "the runs differ in budget" in error
    code, out, _ = clipfuse("compare", str(root), "--mix", "budget")
    assert code == 0
    assert "The runs differ in budget, so this comparison is not fair" in out


def test_another_training_is_refused_or_told_before_the_verdict(clipfuse: Command, sweep: Factory) -> None:
    root = sweep(options={"optimizer.lr": 1e-5, "gradient_clip": 1.0})
    sweep("ldfusion", level=1.0, options={"optimizer.lr": 1e-2, "gradient_clip": None})
    code, out, error = clipfuse("compare", str(root))
    assert code == 2
    assert "has optimizer.lr=1e-05, " in error
    assert "has optimizer.lr=0.01 (and in clipping); such numbers do not compare" in error
    assert "'ldfusion'" not in out
    code, out, _ = clipfuse("compare", str(root), "--mix", "optimizer,clipping")
    assert code == 0
    warned = out.index("The runs differ in optimizer, so this comparison is not fair")
    assert warned < out.index("The runs differ in clipping") < out.index("'ldfusion' is")


def test_an_unknown_protocol_version(clipfuse: Command, sweep: Factory) -> None:
    root = sweep(options={"protocol": "strict-0"})
    code, _, error = clipfuse("compare", str(root))
    assert code == 2
    assert "protocol strict-0, this version has strict-2" in error


def test_a_sweep_that_has_not_been_tested(clipfuse: Command, sweep: Factory) -> None:
    root = sweep(status={"status": "running"}, images=())
    code, out, error = clipfuse("compare", str(root), "--partial")
    assert code == 2
    assert "no run has been tested yet" in error
    assert "(running), without scores." in out


BALANCED = ("kept-information", "kept-structure", "local-detail", "clean-detail")


def balanced_scores(level: float) -> dict[str, list[float]]:
    return {name: [level + place / 100 for place in range(6)] for name in (*BALANCED, "SSIM")}


def test_the_verdict_is_by_the_balanced_set(clipfuse: Command, sweep: Factory) -> None:
    sweep(scores=balanced_scores(0.5))
    root = sweep("ldfusion", scores=balanced_scores(0.6))
    code, out, _ = clipfuse("compare", str(root), "--metrics", "SSIM", "--no-trivial")
    assert code == 0
    assert "over balanced-1 (4 metrics in 4 families)" in out
    assert "Classic-1" not in out
    _, out, _ = clipfuse("compare", str(root), "--metrics", "SSIM", "--no-trivial", "--verdict", "classic")
    assert "over classic-1 (1 metric)" in out
    assert "a good rank is no proof of a good image" in out


def test_a_verdict_set_that_the_runs_lack(clipfuse: Command, root: Path) -> None:
    code, _, error = clipfuse("compare", str(root), "--verdict", "balanced")
    assert code == 2
    assert "verdict balanced: the runs lack metrics of balanced-1: kept-information" in error
    assert "take the verdict classic" in error


def test_runs_of_an_older_protocol_lose_what_has_changed(clipfuse: Command, sweep: Factory) -> None:
    scores = {"SSIM": [0.5] * 6, "local-detail": [0.5] * 6}
    sweep(scores=scores, options={"protocol": "strict-1"})
    root = sweep("ldfusion", scores=scores, options={"protocol": "strict-1"})
    code, out, _ = clipfuse("compare", str(root), "--no-trivial")
    assert code == 0
    assert "The runs were scored under strict-1; this version has strict-2." in out
    assert "Left out, as their definition has changed since: local-detail." in out
    assert "| local-detail" not in out
    assert "protocol strict-1" in out
    code, _, error = clipfuse("compare", str(root), "--metrics", "local-detail")
    assert code == 2
    assert "local-detail" in error


def test_lpips_is_compared_where_all_runs_have_it_by_one_network(clipfuse: Command, sweep: Factory) -> None:
    scores = {"SSIM": [0.5] * 6, "LPIPS": [0.3] * 6}
    options = {"lpips_sha256": "5f", "metrics.lpips_weights": "not_here.pth"}
    sweep(scores=scores, options=options)
    root = sweep("ldfusion", scores={**scores, "LPIPS": [0.2] * 6}, options=options)
    code, out, error = clipfuse("compare", str(root), "--metrics", "SSIM,LPIPS")
    assert code == 0, error
    assert "LPIPS ↓" in out
    sweep("clip_ratio", scores=scores, options=options | {"lpips_sha256": "60"})
    code, _, error = clipfuse("compare", str(root))
    assert code == 2
    assert "has lpips_sha256=5f" in error
    assert "differ in protocol" in error


def test_trivial_fusions_get_lpips_by_the_file_of_a_run_if_it_is_the_same(
    sweep: Factory, tmp_path: Path
) -> None:
    state = {f"features.{name}": value for name, value in _layers("alexnet").state_dict().items()}
    torch.save(state, path := tmp_path / "alexnet.pth")
    known = load_lpips(str(path)).features.sha256
    for sha, options in ((known, {"LPIPS": {"weights": str(path)}}), ("60", {})):
        root = sweep("pixel", options={"lpips_sha256": sha, "metrics.lpips_weights": str(path)})
        (run,) = [run for run in find_runs([root]) if run.config["lpips_sha256"] == sha]
        protocol = with_lpips(STRICT, [run])
        assert (protocol.metrics[-1], protocol.options) == ("LPIPS", options)
    assert score_trivial([run], protocol, ["LPIPS"], sources=lambda image: None) == {}  # type: ignore


def test_metrics_that_a_protocol_has_lost_are_named(clipfuse: Command, sweep: Factory) -> None:
    scores = {name: [0.5] * 6 for name in ("EN", "SD", "MI")}
    sweep(scores=scores, options={"protocol": "tang-1"})
    root = sweep("ldfusion", scores=scores, options={"protocol": "tang-1"})
    code, out, error = clipfuse("compare", str(root), "--no-trivial")
    assert code == 0, error
    assert "The runs were scored under tang-1; this version has tang-2." in out
    assert "Left out, as their definition has changed since: MI." in out
    assert "Left out, as tang-2 has them no more: SD." in out


def test_of_mixed_versions_the_oldest_counts(clipfuse: Command, sweep: Factory) -> None:
    scores = {"SSIM": [0.5] * 6, "local-detail": [0.5] * 6}
    sweep(scores=scores)
    root = sweep("ldfusion", scores=scores, options={"protocol": "strict-1"})
    code, out, _ = clipfuse("compare", str(root), "--no-trivial", "--mix", "protocol")
    assert code == 0
    assert "Left out, as their definition has changed since: local-detail." in out
    assert "| local-detail" not in out


def test_losses_with_the_same_scores_are_said_to_be_equal(clipfuse: Command, sweep: Factory) -> None:
    for seed in range(4):
        scores = {"SSIM": [seed + place / 10 for place in range(6)]}
        sweep(seed=seed, scores=scores)
        root = sweep("ldfusion", seed=seed, scores=scores)
    _, out, _ = clipfuse("compare", str(root), "--no-trivial")
    assert "have the same scores to the last bit: their settings differ without effect." in out


def test_a_training_counted_twice_is_left_out(clipfuse: Command, sweep: Factory) -> None:
    scores = {"SSIM": [place / 10 for place in range(6)]}
    sweep(seed=0, scores=scores)
    sweep(seed=1, scores=scores)
    root = sweep("ldfusion", seed=0)
    _, out, _ = clipfuse("compare", str(root), "--metrics", "SSIM", "--no-trivial")
    assert "so that seeds 0 and 1 of 'pixel' are one training." in out
    assert out.count("One training each") == 1


def test_each_against_each(clipfuse: Command, root: Path) -> None:
    _, out, _ = clipfuse("compare", str(root), "--baseline", "all", "--no-trivial")
    assert "against" in out
    assert "Holm-corrected over 3 tests" in out


def test_figures_are_written_as_svg_and_pdf(clipfuse: Command, sweep: Factory, tmp_path: Path) -> None:
    for seed in (0, 1):
        sweep(seed=seed, pictures=48)
        root = sweep("ldfusion", seed=seed, level=1.0, pictures=48)
    folder = tmp_path / "figures"
    words = ["compare", str(root), "--no-trivial", "--metrics", "SSIM", "--figures", str(folder)]
    code, out, _ = clipfuse(*words)
    assert code == 0
    assert f"written: 8 figures in {folder}" in out
    names = {"ranks", "better", "insets", "metric0"}
    assert {path.name for path in folder.iterdir()} == {
        f"{n}.{kind}" for n in names for kind in ("svg", "pdf")
    }
    for path in folder.iterdir():
        text = path.read_bytes()
        assert text.startswith(b"<?xml" if path.suffix == ".svg" else b"%PDF")
        assert b"#010203" not in text  # ink that stands for a page's own
    before = {path: path.read_bytes() for path in folder.iterdir()}
    code, _, error = clipfuse(*words)
    assert code == 2
    assert "is there already" in error
    assert clipfuse(*words, "--overwrite")[0] == 0
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_plan_says_how_many_seeds(clipfuse: Command, sweep: Factory) -> None:
    generator = np.random.default_rng(0)
    for seed in range(3):
        for loss in ("pixel", "ldfusion"):
            shift = generator.normal()
            root = sweep(loss, seed=seed, scores={"SSIM": [shift + place / 10 for place in range(6)]})
    code, out, _ = clipfuse("compare", str(root), "--plan")
    assert code == 0
    head, row = out.splitlines()[1:3]
    assert head.split() == ["metric", *(w for n in (3, 5, 10, 20, 40, 100) for w in (str(n), "seeds"))]
    found = [float(word) for word in row.split()[1:]]
    assert found == sorted(found, reverse=True)
    _, out, _ = clipfuse("compare", str(root), "--plan", "SSIM=1e-9")
    assert "SSIM: a difference of 1e-09 is not found by 100 seeds" in out
    _, out, _ = clipfuse("compare", str(root), "--plan", f"SSIM={1.001 * found[2]:g}")
    assert out.splitlines()[1].endswith("needs 10 seeds of each loss")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plan", "SSIM"], "--plan SSIM: expected METRIC=DIFFERENCE above 0, as in SSIM=0.01"),
        (["--plan", "SSIM=-1"], "expected METRIC=DIFFERENCE above 0"),
        (["--plan", "SSIM=1", "SSIM=2"], "--plan SSIM=2: SSIM is given twice; keep one of them"),
        (
            ["--plan", "--html", "r.html"],
            "--plan prints how many seeds are needed, and nothing else: leave out --",
        ),
        (["--plan", "--pool-seeds"], "and nothing else: leave out --pool-seeds"),
        (["--plan", "SSMI=1"], "--plan SSMI: not among the metrics, which are"),
    ],
)
def test_mistakes_in_a_plan(clipfuse: Command, root: Path, words: list[str], message: str) -> None:
    code, _, error = clipfuse("compare", str(root), *words)
    assert code == 2
    assert message in error


def test_a_plan_needs_seeds_and_losses(clipfuse: Command, sweep: Factory) -> None:
    root = sweep(seed=0)
    sweep(seed=1)
    code, _, error = clipfuse("compare", str(root), "--plan")
    assert (code, "there is one loss" in error) == (2, True)
    sweep("ldfusion", seed=0)
    code, _, error = clipfuse("compare", str(root), "--plan")
    assert (code, "'ldfusion' has one seed" in error) == (2, True)


@pytest.mark.parametrize("mix", [[], ["--mix", "split"]])
def test_runs_without_a_common_image_are_refused(clipfuse: Command, sweep: Factory, mix: list[str]) -> None:
    sweep(images=("a", "b", "c", "d", "e", "f"))
    root = sweep("ldfusion", images=("u", "v", "w", "x", "y", "z"), options={"split_sha256": "another"})
    code, _, error = clipfuse("compare", str(root), *mix)
    assert code == 2
    assert "have no test image in common" in error
    assert "(a, u, ...)" in error
    assert "--mix" not in error
