"""A folder of registered pairs as a data set."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipfuse.data.facts import digests, thumbnails
from clipfuse.data.pairs import PARTS, Pair
from clipfuse.data.scenes import EXPECTED, given_scenes
from clipfuse.data.splits import hash_split, read_scenes, read_split, split_fingerprint
from clipfuse.data.video import features, find_scenes, looks_like_video
from clipfuse.decoding.ranges import Ranges, read_ranges
from clipfuse.errors import UserError
from clipfuse.files import json_sha256
from clipfuse.images import check_ranges, match_stems, natural_order, read_registered

INFRARED_NAMES = ("ir", "infrared", "inf", "thermal", "lwir", "cropinfrared")
VISIBLE_NAMES = ("vi", "vis", "visible", "rgb", "crop_lr_visible")

_Files = dict[str, tuple[Path, ...]]
_log = logging.getLogger(__name__)


class PairedFolder:
    """Pairs stored as two folders of images of the same names.

    The folders are found in `root` in upper or lower case, in one of three layouts: `ir/ vi/`;
    `train/{ir,vi}/ test/{ir,vi}/` (MSRS); `ir/{train,test}/ vi/{train,test}/` (LLVIP). There may be a `val`
    folder beside `train`. Sample ids are the file names without suffix; if one name is both in `train` and
    in `test`, all ids are `<part>-<name>`.

    Args:
        root: folder of the data set.
        infrared: name of the infrared folders, if it is none of `INFRARED_NAMES`.
        visible: name of the visible folders, if it is none of `VISIBLE_NAMES`.
        split: "auto" takes the data set's own part folders, and cuts the parts that are missing from `train`
            (from all pairs, if there are no part folders) by `hash_split`; "hash" cuts all pairs by
            `hash_split`; else the name of a shipped split file, or the path of one (`*.json`).
        val: share of the validation pairs where they are cut by hash.
        test: share of the test pairs where they are cut by hash.
        name: the data set's name in tables and messages.
        scenes: which images show the same scene. None: each image is its own scene, unless a split file
            states them; "auto": found by numbers and likeness (`find_scenes`) among the validation and test
            pairs and the pairs to be cut; else a regular expression or a file (`given_scenes`). A cut by
            hash never divides a scene; part folders and split files are taken as they are.
        range: the stored values that are black and white, in files of more than 8 bits; see `read_ranges`.

    Raises:
        UserError: folders or files are missing, or the split does not fit the folder.
    """

    def __init__(
        self,
        root: str,
        infrared: str | None = None,
        visible: str | None = None,
        split: str = "auto",
        val: float = 0.1,
        test: float = 0.2,
        name: str = "folder",
        scenes: str | None = None,
        range: Any = None,
    ) -> None:
        if scenes is not None and (not isinstance(scenes, str) or not scenes):
            raise UserError(f"data.scenes is {scenes!r}; expected {EXPECTED}")
        self.name = name
        self._ranges = read_ranges(range)
        self._scenes: Mapping[str, str] = {}
        self._scenes_from = "names"
        folder = Path(root).expanduser()
        official = _find_pairs(
            folder,
            (infrared.lower(),) if infrared else INFRARED_NAMES,
            (visible.lower(),) if visible else VISIBLE_NAMES,
        )
        self._files: _Files = {sample: files for part in official.values() for sample, files in part.items()}
        if split in ("auto", "hash"):
            held = {part: tuple(found) for part, found in official.items() if part != "train"}
            pool: Collection[str] = official.get("train", {})
            if split == "hash":
                held, pool = {}, self._files
            val, test = 0 if "val" in held else val, 0 if "test" in held else test
            seen = [name for found in held.values() for name in found] + [*pool] * (val + test > 0)
            self._read_scenes(scenes, self._files, seen)
            self._parts = hash_split(pool, val, test, self._scenes) | held
        else:
            self._parts = read_split(split)
            self._check_listed(folder, split)
            if told := read_scenes(split):
                self._scenes, self._scenes_from = told, "split file"
            listed = [name for part in PARTS for name in self._parts[part]]
            self._read_scenes(scenes, listed, [*self._parts["val"], *self._parts["test"]])
        check_ranges(list(self._files.values()), self._ranges)

    def _read_scenes(self, scenes: str | None, ids: Collection[str], seen: Sequence[str]) -> None:
        """Set the scenes by the rule `scenes`: of `seen` if they must be found by likeness, else of `ids`."""
        if scenes == "auto":
            self._scenes, self._scenes_from = find_scenes(seen, self._features), "auto"
            sizes = Counter(self._scenes.values()).values()
            _log.info(
                "%s: data.scenes=auto found %d scenes in %d images, at most %d in one",
                *(self.name, len(sizes), len(seen), max(sizes, default=0)),
            )
        elif scenes is not None:
            self._scenes, self._scenes_from = given_scenes(scenes, ids)

    def _features(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        small = np.stack(thumbnails([path for name in ids for path in self._files[name]]))
        return dict(zip(ids, features(small.reshape(len(ids), 2, *small.shape[1:])), strict=True))

    def _check_listed(self, folder: Path, split: str) -> None:
        listed = {sample for names in self._parts.values() for sample in names}
        if missing := sorted(listed - self._files.keys(), key=natural_order):
            raise UserError(
                f"{folder}: {len(missing)} of the {len(listed)} pairs of split '{split}' are missing: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; complete the folder, "
                "or cut your own split by data.split=hash"
            )
        if left_out := len(self._files.keys() - listed):
            _log.warning("%s: left out %d pairs that split '%s' does not name", folder, left_out, split)

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Return the sample ids of "train", "val" and "test", disjoint, in a fixed order."""
        return self._parts

    def load(self, sample_id: str) -> Pair:
        """Read one pair; raises UserError as `load_pair`."""
        infrared, visible = self._files[sample_id]
        return load_pair(infrared, visible, self._ranges)

    def scenes(self) -> Mapping[str, str]:
        """Return the scene of each sample whose scene is known; see the argument `scenes`."""
        return self._scenes

    def scene_notes(self) -> dict[str, Any]:
        """Return where the scenes are from (`source`), and a `warning` if test images look like video."""
        warning = None
        if self._scenes_from == "names" and looks_like_video(self._parts["test"], self._features):
            warning = (
                f"the test images of '{self.name}' look like video: neighbouring frames count as "
                "independent scenes, so intervals are too narrow; set data.scenes=auto"
            )
        return {"source": self._scenes_from, "warning": warning}

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the parts, the bytes of their files, and the scenes of their pairs."""
        listed = sorted(name for ids in self._parts.values() for name in ids)
        files = digests([path for name in listed for path in self._files[name]])
        facts = {
            "parts": self.names_fingerprint(),
            "files": {name: files[2 * place : 2 * place + 2] for place, name in enumerate(listed)},
            "scenes": {name: scene for name in listed if (scene := self._scenes.get(name, name)) != name},
        }
        return json_sha256(facts)

    def names_fingerprint(self) -> str:
        """Return the SHA-256 (hex) of which id is in which part, which is all that older runs recorded."""
        return split_fingerprint(self._parts)


def _find_pairs(root: Path, infrared: Sequence[str], visible: Sequence[str]) -> dict[str, _Files]:
    """Return {part: {id: (infrared file, visible file)}}; without part folders all pairs are "train"."""
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; expected a data set of infrared and visible images; check the path"
        )
    if not _find(root, infrared) and not _find(root, visible) and (parts := _part_folders(root)):
        folders = {part: _band_folders(folder, infrared, visible) for part, folder in parts.items()}
    else:
        bands = _band_folders(root, infrared, visible)
        thermal, color = map(_part_folders, bands)
        if uneven := thermal.keys() ^ color.keys():
            raise UserError(
                f"{root}: the folder {' and '.join(sorted(uneven))} is in only one of {bands[0].name} and "
                f"{bands[1].name}; add its partner or remove it"
            )
        folders = {part: (thermal[part], color[part]) for part in thermal} or {"train": bands}
    found = {part: match_stems(infrared=ir, visible=vi) for part, (ir, vi) in folders.items()}
    if len(set().union(*found.values())) == sum(map(len, found.values())):
        return found
    return {part: {f"{part}-{stem}": pair for stem, pair in files.items()} for part, files in found.items()}


def _part_folders(folder: Path) -> dict[str, Path]:
    return {part: found for part in PARTS if (found := _find(folder, (part,)))}


def _band_folders(folder: Path, infrared: Sequence[str], visible: Sequence[str]) -> tuple[Path, Path]:
    found = []
    for word, names in (("infrared", infrared), ("visible", visible)):
        path = _find(folder, names)
        if path is None:
            inside = ", ".join(child.name for child in sorted(folder.iterdir()) if child.is_dir()) or "none"
            raise UserError(
                f"{folder}: no {word} folder; expected {' | '.join(names)} (any case), here or in train/ and "
                f"test/; sub-folders found: {inside}; name the one to take by data.{word}=NAME"
            )
        found.append(path)
    return found[0], found[1]


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the one sub-folder whose name is in `names`, in any case."""
    found = [child for child in sorted(folder.iterdir()) if child.is_dir() and child.name.lower() in names]
    if len(found) > 1:
        raise UserError(
            f"{folder}: {' and '.join(child.name for child in found)} could all be the {names[0]} folder; "
            "keep one, or name the one to take by data.infrared=NAME or data.visible=NAME"
        )
    return found[0] if found else None


def load_pair(infrared: Path, visible: Path, ranges: Ranges | None = None) -> Pair:
    """Read two files as one pair; infrared stored in colour is reduced to its luma, in its own depth.

    Raises:
        UserError: the images differ in size, or as `read_image`.
    """
    return Pair(*read_registered(infrared, visible, ranges))
