"""Make the split of RoadScene that ClipFuse ships, from the folder of pairs.

    python experiments/splits/make_roadscene.py --root .../roadscene

RoadScene's frames come from a few drives, so that neighbouring frames show one place. A split by
pairs would test on places seen in training; this one keeps whole scenes together.
"""

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from clipfuse.data.folder import PairedFolder
from clipfuse.data.splits import split_fingerprint

GREATEST_GAP = 60
SHARES = {"test": 0.18, "val": 0.12}
RULE = (
    "A scene is a run of names of one prefix (FLIR_, FLIR_video_) whose frame numbers follow each other with "
    "gaps of at most 60; it is called by its first name. Scenes are taken in the order of the SHA-256 (hex) "
    "of their first name; each goes to test while test then holds at most round(0.18 n) of the n pairs, else "
    "to val while val then holds at most round(0.12 n), else to train."
)
SOURCE = (
    "RoadScene: H. Xu, J. Ma, J. Jiang, X. Guo, H. Ling, U2Fusion (TPAMI 2022) and FusionDN (AAAI 2020), "
    "github.com/hanna-xu/RoadScene, folders cropinfrared and crop_LR_visible. Names only, of 171 of its 221 "
    "pairs: the 50 that CDDFuse and PromptFusion test on are in no part."
)


def find_scenes(names: list[str]) -> list[list[str]]:
    """Return the names in runs of neighbouring frames, in the order of prefix and frame number."""
    frames = []
    for name in names:
        match = re.fullmatch(r"(.*_)(\d+)", name)
        if match is None:
            raise SystemExit(f"{name}: expected a name like FLIR_00006 or FLIR_video_00069")
        frames.append((match[1], int(match[2]), name))
    scenes: list[list[str]] = []
    previous = ("", 0)
    for prefix, number, name in sorted(frames):
        if scenes and prefix == previous[0] and number - previous[1] <= GREATEST_GAP:
            scenes[-1].append(name)
        else:
            scenes.append([name])
        previous = (prefix, number)
    return scenes


def make_split(names: list[str]) -> dict[str, Any]:
    """Return the content of the split file for these names, by `RULE`."""
    parts: dict[str, dict[str, list[str]]] = {"train": {}, "val": {}, "test": {}}
    for scene in sorted(find_scenes(names), key=lambda scene: hashlib.sha256(scene[0].encode()).hexdigest()):
        for part, share in SHARES.items():
            if sum(map(len, parts[part].values())) + len(scene) <= round(share * len(names)):
                break
        else:
            part = "train"
        parts[part][scene[0]] = scene
    ordered = {part: dict(sorted(scenes.items())) for part, scenes in parts.items()}
    flat = {part: [name for scene in scenes.values() for name in scene] for part, scenes in ordered.items()}
    return {"name": "roadscene", "source": SOURCE, "rule": RULE, "sha256": split_fingerprint(flat), **ordered}


def main() -> None:
    """Write the split file beside the package's sources."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder with the infrared and the visible images")
    folder = PairedFolder(parser.parse_args().root, split="hash")
    names = [name for part in folder.parts().values() for name in part]
    shipped = Path(__file__).parents[2] / "src/clipfuse/data/splits/roadscene.json"
    shipped.write_text(json.dumps(make_split(names), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
