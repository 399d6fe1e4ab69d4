"""The documentation site: `make docs` on this checkout, and what must hold of its pages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# An address that a browser would fetch by itself; a link that a reader may follow is none.
FETCHED = re.compile(
    r"""(?:src|srcset)=["'](?:https?:)?//|<link[^>]+href=["'](?:https?:)?//|@import|url\((?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_in_the_site_and_in_its_menu(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    studies = {path.parent.relative_to(ROOT) / "index.html" for path in ROOT.glob("experiments/*/README.md")}
    assert len(studies) > 10
    home = (site / "index.html").read_text()
    for page in pages | studies:
        assert (site / page).is_file()
        assert f'href="{page}"' in home, f"{page} is in no menu: add it to nav in mkdocs.yml"


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(files) > 40
    found = [
        f"{path.relative_to(site)}: {match}" for path in files for match in FETCHED.findall(path.read_text())
    ]
    assert not found


def test_pages_hold_what_is_generated(site: Path) -> None:
    losses = (site / "reference/losses.html").read_text()
    for name in ("PixelLoss", "LDFusionLoss", "ClipRatioLoss", "PromptFusionLoss", "gradient_weight"):
        assert name in losses
    testing = (site / "reference/testing.html").read_text()
    for name in ("LossContract", "ShortTraining", "loss_node", "example_inputs", "Ranks", "test_two_ranks"):
        assert name in testing
    commands = (site / "cli.html").read_text()
    assert "help: " not in commands
    assert commands.count("usage: clipfuse") >= 8
    verdict = (site / "experiments/verdict/index.html").read_text()
    assert 'href="../compare_losses/index.html"' in verdict
    assert (site / "experiments/compare_losses/report.png").is_file()
    assert "False discoveries" in verdict


def test_nothing_generated_is_stored() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert f"/{yaml.load((ROOT / 'mkdocs.yml').read_text(), yaml.SafeLoader)['site_dir']}/" in ignored
