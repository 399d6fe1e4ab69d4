"""`clipfuse score --explain`: the protocol of a published table."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipfuse.cli.explain import Cell, explain, read_published
from clipfuse.errors import UserError
from clipfuse.metrics import PROTOCOLS, Scorer

Run = Callable[..., tuple[int, str, str]]
IMAGES, METHODS = ("a", "b"), ("Ours", "U2Fusion")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two gray pairs with a method each way: smooth, with black, white and equal gradients."""
    root = tmp_path_factory.mktemp("published")
    generator = np.random.default_rng(0)
    for name in IMAGES:
        infrared, visible = (
            np.kron(generator.integers(0, 256, (7, 8)), np.ones((8, 8)))[:53, :61]
            + generator.normal(0, 6, (53, 61))
            for _ in range(2)
        )
        images = {"ir": infrared, "vi": visible}
        images |= {"Ours": np.maximum(infrared, visible), "U2Fusion": 0.6 * infrared + 0.4 * visible}
        for folder, image in images.items():
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / folder / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def numbers(folders: Path) -> Callable[..., dict[str, dict[str, float]]]:
    """Scores by a protocol, by method, or by image of one method."""

    def plane(folder: str, name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(folders / folder / f"{name}.png")) / 255)[None, None]

    def score(protocol: str, metrics: str, of: str | None = None) -> dict[str, dict[str, float]]:
        scorer = Scorer(protocol, metrics.split(","))
        rows = {
            name: scorer.score_all(
                {method: plane(method, name) for method in METHODS}, plane("ir", name), plane("vi", name)
            )
            for name in IMAGES
        }
        if of:
            return {name: row[of] for name, row in rows.items()}
        return {m: {k: np.mean([rows[n][m][k] for n in IMAGES]) for k in rows["a"][m]} for m in METHODS}

    return score


def write(path: Path, table: dict[str, dict[str, float]], form: str = "{:.4f}", comma: str = ",") -> Path:
    names = list(next(iter(table.values())))
    lines = [["Method", *names], *([row, *(form.format(v) for v in r.values())] for row, r in table.items())]
    path.write_text("\n".join(comma.join(line) for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def explained(clipfuse: Run, folders: Path) -> Callable[..., str]:
    def run(table: Path, *words: str, methods: tuple[str, ...] = METHODS) -> str:
        fused = [word for method in methods for word in ("--fused", str(folders / method))]
        bands = ["--infrared", str(folders / "ir"), "--visible", str(folders / "vi")]
        code, text, errors = clipfuse("score", "--explain", str(table), *fused, *bands, *words)
        assert code == 0, errors
        found, rest = text.split("\n", 1)
        assert found == "2 pairs: 2 by equal names in two folders"
        return rest

    return run


def test_a_table_of_one_convention_is_named(explained, numbers, tmp_path: Path) -> None:
    for name in ("cddfuse", "ivif_zoo", "vifb"):
        metrics = "MI,PSNR,SSIM,Qabf"
        text = explained(write(tmp_path / "t.csv", numbers(name, metrics)))
        assert text.splitlines()[-1] == f"The table follows {PROTOCOLS[name]}.", text
        lines = {line.split()[0]: line.split() for line in text.splitlines()[1:6]}
        place = lines["metric"].index(str(PROTOCOLS[name]))
        for metric in metrics.split(","):
            assert lines[metric][1] == "2"
            assert lines[metric][place] == "all"
            if metric in ("SSIM", "Qabf"):  # which it lacks
                assert lines[metric][lines["metric"].index("tang-2")] == "-"


def test_a_copied_table_of_two_sheets_is_taken_apart(explained, numbers, tmp_path: Path) -> None:
    old, new = numbers("tang_uint8", "SD,SF,VIF"), numbers("tang", "MI,PSNR")
    text = explained(write(tmp_path / "t.csv", {method: old[method] | new[method] for method in METHODS}))
    for metric in ("SD", "SF", "VIF"):
        assert f"\n{metric}: tang_uint8-1\n" in text
    assert "\nPSNR: tang-2, ivif_zoo-1; these give one number here\n" in text
    assert text.splitlines()[-1] == "No single protocol has all of its numbers; each is found in some."


def test_protocols_that_agree_are_all_named(explained, numbers, tmp_path: Path) -> None:
    text = explained(write(tmp_path / "t.csv", numbers("strict", "SD,CC")))
    assert "SD: strict-2, cddfuse-1, ivif_zoo-1; these give one number here" in text
    last = "The table follows strict-2 and cddfuse-1 and ivif_zoo-1 alike; they differ in other metrics."
    assert text.splitlines()[-1] == last
    text = explained(write(tmp_path / "t.csv", numbers("strict", "SSIM"), "{:.1f}"))
    assert "few digits, it may be chance" in text


def test_other_numbers_follow_none(explained, numbers, tmp_path: Path) -> None:
    table = {
        method: {k: 1.02 * v for k, v in row.items()} for method, row in numbers("strict", "EN,SD").items()
    }
    text = explained(write(tmp_path / "t.csv", table))
    assert re.search(r"\nEN: no protocol; nearest .*strict-2.*, 1 digit\n", text)
    assert "The table follows no protocol" in text.splitlines()[-1]
    half = {m: numbers("strict", "EN")[m] | {"SD": row["SD"]} for m, row in table.items()}
    assert "not explained: SD." in explained(write(tmp_path / "t.csv", half))


@pytest.mark.parametrize("form", ["{:.3f}", "{:.3f}±0.1", "**{:.3f}**", "$\\mathbf{{{:.3f}}}$", "{:.3f} (2)"])
def test_cells_as_papers_print_them(explained, numbers, tmp_path: Path, form: str) -> None:
    for comma in ",;\t":
        text = explained(write(tmp_path / "t.csv", numbers("cddfuse", "MI,SSIM"), form, comma))
        assert text.splitlines()[-1] == "The table follows cddfuse-1."


def test_rows_of_images_and_metrics_in_rows(explained, numbers, tmp_path: Path) -> None:
    images = numbers("cddfuse", "MI,SSIM", of="Ours")
    named = {f"{name}.png": row for name, row in images.items()}
    text = explained(write(tmp_path / "t.csv", named), methods=("Ours",))
    assert text.splitlines()[0].endswith("4 numbers, 2 images")
    assert "The table follows cddfuse-1." in text
    table = numbers("cddfuse", "MI,SSIM")
    turned = {metric: {method: table[method][metric] for method in METHODS} for metric in ("MI", "SSIM")}
    assert "The table follows cddfuse-1." in explained(write(tmp_path / "t.csv", turned))
    # One row under any name is that of the one folder; of several, rows of others are left out and named.
    assert "cddfuse-1." in explained(
        write(tmp_path / "t.csv", {"proposed": table["Ours"]}), methods=("Ours",)
    )
    text = explained(write(tmp_path / "t.csv", table | {"FusionGAN": table["Ours"]}))
    assert text.splitlines()[-1] == "rows left out, as no folder or image has their name: FusionGAN"
    assert "The table follows cddfuse-1." in text


def test_names_of_columns(explained, numbers, tmp_path: Path) -> None:
    """What most papers call VIFF is VIF; a column that is no metric is named."""
    table = numbers("cddfuse", "VIF,Qabf,MI")
    renamed = {
        method: {"VIFF ↑": row["VIF"], "Q^{AB/F}": row["Qabf"], "mi": row["MI"], "LPIPS": 0.1}
        for method, row in table.items()
    }
    text = explained(write(tmp_path / "t.csv", renamed))
    assert "The table follows cddfuse-1." in text
    assert text.splitlines()[-1] == "columns left out, as no metric here has their name: LPIPS"


def test_our_own_file_is_explained_to_every_digit(
    clipfuse: Run, explained, folders: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.csv"
    fused = [word for method in METHODS for word in ("--fused", str(folders / method))]
    bands = ["--infrared", str(folders / "ir"), "--visible", str(folders / "vi")]
    assert clipfuse("score", *fused, *bands, "--protocol", "ivif_zoo", "--out", str(out))[0] == 0
    text = explained(out)
    assert "The table follows ivif_zoo-1." in text
    rows = list(csv.DictReader(out.open()))
    defined = (
        sum(row[name] not in ("", "nan") for row in rows if row["method"] in METHODS for name in row) - 3 * 4
    )
    assert text.splitlines()[0].endswith(f"{defined} numbers, 2 images")


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("Method,LPIPS\nOurs,1", [], "names no metric; expected a row or column of EN, SD"),
        ("", [], "names no metric"),
        ("Method,EN\nDeepFuse,6.1\nDDcGAN,6.2", [], "other rows: DeepFuse, DDcGAN); label the folders like"),
        ("Method,EN\nOurs,-", [], "has 0 numbers in rows of Ours, U2Fusion or of an image"),
        (None, [], "cannot be read (No such file or directory)"),
        (
            "Method,EN\nOurs,6.1",
            ["--protocol", "tang"],
            "leave out --protocol, --metrics, --own, --lpips-weights, --out, --json and --html",
        ),
    ],
)
def test_what_cannot_be_explained_is_one_line(
    clipfuse: Run, folders: Path, tmp_path: Path, text: str | None, words: list[str], message: str
) -> None:
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    fused = [word for method in METHODS for word in ("--fused", str(folders / method))]
    bands = ["--infrared", str(folders / "ir"), "--visible", str(folders / "vi")]
    code, _, errors = clipfuse("score", "--explain", str(tmp_path / "t.csv"), *fused, *bands, *words)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("printed", "ours", "digits", "agreeing"),
    [
        ("6.83", 6.8349, 3, 3),
        ("6.83", 6.8351, 3, 2),
        ("6.83", 6.9, 3, 1),
        ("6.83", 8.0, 3, 0),
        ("0.0432", 0.04316, 3, 3),
        ("48.13", 48.1, 4, 3),
        ("0.00", 0.004, 1, 1),
        ("-0.5", -0.52, 1, 1),
        ("1.2e3", 1240.0, 2, 2),
        ("7.123456789012", 7.1234567893, 9, 9),
    ],
)
def test_digits_of_agreement(tmp_path: Path, printed: str, ours: float, digits: int, agreeing: int) -> None:
    (tmp_path / "t.csv").write_text(f"name,EN\nOurs,{printed}")
    (cell,), notes = read_published(tmp_path / "t.csv", ["Ours"], ["a"], ["EN"])
    assert (cell.value, cell.printed, cell.agreeing(ours), notes) == (float(printed), digits, agreeing, [])


def test_an_undefined_score_is_not_compared() -> None:
    cells = [Cell(("m", None), "PSNR", 20.0, 1), Cell(("m", None), "EN", 6.0, 1)]
    scores = {"p-1": {"m": {"a": {"PSNR": float("nan"), "EN": 5.98}}}}
    lines = list(explain(cells, scores))
    assert "PSNR: no protocol" in lines
    assert lines[1].split() == ["PSNR", "1", "3", "-"]


def test_a_table_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,EN\n" + "Ours,6.1\n" * 10_001)
    with pytest.raises(UserError, match=r"10001 numbers .* expected 1 to 10000"):
        read_published(tmp_path / "t.csv", ["Ours"], ["a"], ["EN"])
