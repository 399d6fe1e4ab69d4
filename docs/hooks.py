"""What the documentation site takes from the rest of the repository while it is built.

Pages link to files of the repository by relative paths, as a reader of the repository needs them. Every
linked file outside `docs/` becomes part of the site: Markdown as a page, all else as a file. So the
studies, the README and the metrics' README have one source each, and no generated page is stored.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Path in the repository -> address in the site, where the two differ.
MOVED = {
    "README.md": "index.md",
    "README.zh.md": "zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "src/clipfuse/metrics/README.md": "metrics.md",
    "src/clipfuse/backbones/best/MODEL_CARD.md": "bundled_network.md",
    "src/clipfuse/backbones/best/FIRST_CARD.md": "first_network.md",
    "src/clipfuse/backbones/best/STUDENT_CARD.md": "bundled_student.md",
    "src/clipfuse/backbones/by_loss/MODEL_CARD.md": "bundled_losses.md",
    "src/clipfuse/clip/micro/MODEL_CARD.md": "micro_clip.md",
    "src/clipfuse/clip/micro_1/MODEL_CARD.md": "micro_clip_1.md",
    "src/clipfuse/rewards/bundled/MODEL_CARD.md": "bundled_scorer.md",
}
ORIGIN = {address: path for path, address in MOVED.items()}
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")
HELP = re.compile(r"<!-- help: ([a-z-]+) -->")
MODULES = re.compile(r"<!-- modules: ([\w.]+) -->")


def address_of(path: str) -> str:
    """Return the address in the site of a file of the repository; both are relative, with slashes."""
    return MOVED.get(path, path.removeprefix("docs/"))


def path_of(address: str) -> str:
    """Return the file of the repository that the page at an address is made from."""
    if address in ORIGIN:
        return ORIGIN[address]
    return f"docs/{address}" if (ROOT / "docs" / address).exists() else address


def linked(path: str) -> Iterator[str]:
    """Yield the files of the repository that a page links to."""
    for _, link, _ in LINK.findall((ROOT / path).read_text(encoding="utf-8")):
        target = os.path.normpath(PurePosixPath(path).parent / link)
        if (ROOT / target).is_file():
            yield target


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every page of the repository that belongs to the site, and all files that pages link to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    waiting += [*MOVED, *(str(path.relative_to(ROOT)) for path in ROOT.glob("experiments/*/README.md"))]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            files.append(File.generated(config, address_of(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            new = [target for target in dict.fromkeys(linked(path)) if target not in seen]
            seen.update(new)
            waiting += new
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site; fill in modules and the commands' help."""
    here_in_site = page.file.src_uri
    here = path_of(here_in_site)

    def relink(found: re.Match[str]) -> str:
        text, link, anchor = found.groups()
        target = os.path.normpath(PurePosixPath(here).parent / link)
        if (ROOT / target).is_dir():  # the site has no page of a folder
            return str(text)
        link = os.path.relpath(address_of(target), PurePosixPath(here_in_site).parent)
        return f"[{text}]({link}{anchor or ''})"

    markdown = MODULES.sub(lambda found: modules_of(found[1]), LINK.sub(relink, markdown))
    return HELP.sub(lambda found: help_of(found[1]), markdown)


def modules_of(package: str) -> str:
    """Return the sections of a package's modules, which mkdocstrings fills from their docstrings."""
    paths = sorted((ROOT / "src" / package.replace(".", "/")).glob("[!_]*.py"))
    names = [f"{package}.{path.stem}" for path in paths]
    return "\n\n".join(f"## {name.rpartition('.')[2]}\n\n::: {name}" for name in names)


def help_of(command: str) -> str:
    """Return what `clipfuse COMMAND --help` prints, as a code block."""
    words = [sys.executable, "-m", "clipfuse.cli", command, "--help"]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "COLUMNS": "88", "PYTHONPATH": paths}
    printed = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    return f"```text\n{printed.rstrip()}\n```"
