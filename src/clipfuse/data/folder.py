"""A folder of registered pairs as a data set."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clipfuse.data.checks import check_pairs, look_at_bands
from clipfuse.data.facts import color_spreads, digests, headers, thumbnails
from clipfuse.data.fourth import check_fourth, find_fourth, load_fourth
from clipfuse.data.labels.captions import read_captions
from clipfuse.data.labels.description import parse_labels
from clipfuse.data.labels.files import LabelFiles, no_labels
from clipfuse.data.layout import find_pairs
from clipfuse.data.listed import listed_pairs
from clipfuse.data.masks import check_masks, find_masks, parse_classes, read_target_mask
from clipfuse.data.matching import PairFiles
from clipfuse.data.pairs import PARTS, Pair
from clipfuse.data.scenes import EXPECTED, beside_training, given_scenes
from clipfuse.data.splits import find_lists, hash_split, read_scenes, read_split, split_fingerprint
from clipfuse.data.video import features, find_scenes, looks_like_video
from clipfuse.decoding.ranges import Ranges, read_ranges
from clipfuse.errors import UserError
from clipfuse.files import json_sha256
from clipfuse.images import check_ranges, natural_order, read_registered
from clipfuse.types import LabelSet

Names = str | Sequence[str] | None
_log = logging.getLogger(__name__)


class PairedFolder:
    """Pairs that lie below one folder.

    They are found by the names of folders and files, as `find_pairs` does: in folders of each band, in one
    folder, or in one folder per scene, below part folders such as `train` and `test` or not. Sample ids are
    what the names of both files have in common, without the marks of the bands, and before that the folders
    of a scene; if one name is both in `train` and in `test`, all ids are `<part>-<name>`.

    The headers and sizes of all images are checked at once, and kept in a cache.

    Args:
        root: folder of the data set.
        infrared: name of the infrared folders, or the word that marks infrared files, where the known ones
            (`clipfuse.data.names`) do not suffice or suit several; of a list the first that is there.
        visible: the same of the visible band.
        split: "auto" takes the data set's own part folders, and cuts the parts that are missing from `train`
            (from all pairs, if there are no part folders) by `hash_split`; "hash" cuts all pairs by
            `hash_split`; "lists", or the path of a folder, takes the parts of its `train.txt`, `val.txt` and
            `test.txt` (`find_lists`), and cuts those that are missing in the same way; else the name of a
            shipped split file, or the path of one (`*.json`).
        val: share of the validation pairs where they are cut by hash.
        test: share of the test pairs where they are cut by hash.
        name: the data set's name in tables and messages.
        scenes: which images show the same scene. None: each image is its own scene, unless a split file or
            `pairs` states them; "auto": found by numbers and likeness (`find_scenes`) among the validation
            and test pairs and the pairs to be cut; else a regular expression or a file (`given_scenes`). A
            cut by hash never divides a scene; part folders and split files are taken as they are.
        range: the stored values that are black and white, in files of more than 8 bits; see `read_ranges`.
        pairs: two patterns or a table (`listed_pairs`), where names alone do not show the pairs.
        masks: name of the folders of target masks, which lie beside those of the bands, or the path of one.
        mask_classes: the classes that are targets, if the masks are maps of classes.
        labels: maps of classes or boxes, as `parse_labels`. They are read where their folder is there, and
            then each pair that is used needs one; without the folder the pairs have no labels.
        captions: a table of texts about the pairs, as `read_captions`.
        fourth: name of the folder of images whose fourth channel is the infrared one (`find_fourth`), instead
            of two files for each pair.

    Raises:
        UserError: folders or files are missing, cannot be read or differ in size; the pairs can be understood
            in two ways; the split does not fit the folder; or labels are missing or cannot be used.
    """

    def __init__(
        self,
        root: str,
        infrared: Names = None,
        visible: Names = None,
        split: str = "auto",
        val: float = 0.1,
        test: float = 0.2,
        name: str = "folder",
        scenes: str | None = None,
        pairs: str | None = None,
        masks: str | None = None,
        mask_classes: Sequence[int] | None = None,
        range: Any = None,
        labels: Mapping[str, Any] | None = None,
        captions: str | None = None,
        fourth: str | None = None,
    ) -> None:
        if scenes is not None and (not isinstance(scenes, str) or not scenes):
            raise UserError(f"data.scenes is {scenes!r}; expected {EXPECTED}")
        self.name = name
        self._ranges = read_ranges(range)
        self._scenes: Mapping[str, str] = {}
        self._scenes_from = "names"
        self._root = folder = Path(root).expanduser()
        described = parse_labels(labels, folder)
        self._fourth = fourth is not None
        if fourth is not None:
            if infrared or visible or pairs or range is not None:
                raise UserError(
                    "data.fourth finds and reads pairs alone; leave out infrared, visible, pairs and range"
                )
            found = find_fourth(folder, str(fourth))
        elif pairs is None:
            found = find_pairs(folder, _listed(infrared), _listed(visible))
        else:
            found = listed_pairs(pairs, folder, folder)
        self._pairs = found.pairs
        self._read_masks(folder, masks, mask_classes)
        self._files = {sample: (p.infrared, p.visible) for sample, p in self._pairs.items()}
        official: dict[str, list[str]] = {}
        for sample, pair in self._pairs.items():
            official.setdefault(pair.part or "train", []).append(sample)
        if lists := find_lists(split, folder):
            self._check_listed(folder, split, lists)
            official = {part: list(names) for part, names in lists.items()}
        if stated := {sample: pair.scene for sample, pair in self._pairs.items() if pair.scene}:
            self._scenes, self._scenes_from = stated, "pairs"
        if lists or split in ("auto", "hash"):
            held = {part: tuple(ids) for part, ids in official.items() if part != "train"}
            pool: Collection[str] = official.get("train", [])
            if split == "hash":
                held, pool = {}, self._files
            val, test = 0 if "val" in held else val, 0 if "test" in held else test
            seen = [name for ids in held.values() for name in ids] + [*pool] * (val + test > 0)
            self._read_scenes(scenes, self._files, seen)
            self._parts = hash_split(pool, val, test, self._scenes) | held
            self._note = self._how_cut(held, pool, val, test, "lists" if lists else "folders")
        else:
            self._parts = read_split(split)
            self._check_listed(folder, split, self._parts)
            if told := read_scenes(split):
                self._scenes, self._scenes_from = told, "split file"
            listed = [name for part in PARTS for name in self._parts[part]]
            self._read_scenes(scenes, listed, [*self._parts["val"], *self._parts["test"]])
            self._note = f"parts by the split '{split}'"
        used = [sample for ids in self._parts.values() for sample in ids]
        files = {sample: self._files[sample] for sample in used}
        one = {sample: pair[0] for sample, pair in files.items()}
        if self._fourth:
            check_fourth(list(one.values()))
        masks_of = {sample: [mask] for sample in used if (mask := self._pairs[sample].mask)}
        apart = {sample: (*pair, *masks_of.get(sample, ())) for sample, pair in files.items()}
        check_pairs({sample: (one[sample],) for sample in used} if self._fourth else apart, headers)
        if not self._fourth and (warning := look_at_bands(files, color_spreads)):
            _warn("%s: %s", name, warning)
        check_ranges(list(self._files.values()), self._ranges)
        self._described = described
        self._labels = LabelFiles(folder, described, self._pairs) if described else None
        if self._labels:
            self._labels.check(one)
        self._captions = read_captions(captions, used, folder) if captions is not None else {}
        read = described.folder if described and self._labels else None
        known = {f"other in {each}".lower() for each in (masks, read)}
        left_out = {kind: n for kind, n in found.left_out.items() if kind.lower() not in known}
        self._found = replace(found, left_out=left_out).summary()
        self._found += f"; {len(masks_of)} masks of targets" if masks_of else ""
        self._found += f"; {self._labels.summary()}" if self._labels else ""
        self._found += f"; {len(self._captions)} captions" if self._captions else ""

    def _how_cut(
        self, held: Collection[str], pool: Collection[str], val: float, test: float, source: str
    ) -> str:
        cut = [part for part, share in (("val", val), ("test", test)) if share > 0]
        folders = {pair.part for pair in self._pairs.values()}
        by_folder = "train" in folders and not folders - {"train"}  # split=hash cuts all of several
        if not cut or not pool:
            return f"parts by their {source}" if held else ""
        if by_folder and not held:
            _warn(
                "%s: there is a train folder but no test folder, so %s cut from train by a hash; these are "
                "no official parts",
                *(self.name, f"{' and '.join(cut)} {'are' if len(cut) > 1 else 'is'}"),
            )
        whole = "train" if by_folder or held else "all pairs"
        return f"{' and '.join(cut)} cut from {whole} by a hash{f', the rest by {source}' if held else ''}"

    def summary(self) -> str:
        """Return how many pairs were found by which rule, what was left out, and where the parts are from."""
        return f"{self._found}{'; ' if self._note else ''}{self._note}"

    def pair_files(self) -> Mapping[str, PairFiles]:
        """Return the files of every pair by its id."""
        return self._pairs

    def _read_masks(self, folder: Path, masks: str | None, mask_classes: Sequence[int] | None) -> None:
        if masks is not None:
            found = find_masks(folder, str(masks), self._pairs)
            self._pairs = {sample: replace(p, mask=found[sample]) for sample, p in self._pairs.items()}
        self._classes = parse_classes(mask_classes, "data.mask_classes")
        paths = [pair.mask for pair in self._pairs.values() if pair.mask]
        if self._classes and not paths:
            raise UserError("data.mask_classes has no effect without masks; name their folder by data.masks")
        if paths:
            check_masks(paths, self._classes)

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

    def _check_listed(self, folder: Path, split: str, parts: Mapping[str, Sequence[str]]) -> None:
        listed = {sample for names in parts.values() for sample in names}
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
        """Read one pair; raises UserError as `load_pair`, `read_target_mask` and `LabelFiles.read`."""
        files, more = self._files[sample_id], dict[str, Any]()
        pair = load_fourth(files[0]) if self._fourth else load_pair(*files, self._ranges)
        if (mask := self._pairs[sample_id].mask) is not None:
            more["target_mask"] = read_target_mask(mask, self._classes)
        if self._labels:
            height, width = pair.infrared.shape[-2:]
            more |= self._labels.read(sample_id, (height, width))
        return replace(pair, **more, caption=self._captions.get(sample_id))

    def labels(self) -> LabelSet | None:
        """Return what classes and boxes mean; None where the label files are not there."""
        return self._labels.described.labels if self._labels else None

    def no_labels(self, kind: str) -> str:
        """Return why there are no "classes", "boxes" or "captions", and what to do."""
        return no_labels(kind, self._described, self._root)

    def labels_fingerprint(self) -> str | None:
        """Return the SHA-256 (hex) of labels and captions of all pairs that are used; None if there are none.

        It is apart from `fingerprint`, so that trainings that see no labels compare with those that do, and
        with older runs.
        """
        if not self._labels and not self._captions:
            return None
        return json_sha256(
            {"labels": self._labels.facts() if self._labels else None, "captions": self._captions}
        )

    def scenes(self) -> Mapping[str, str]:
        """Return the scene of each sample whose scene is known; see the argument `scenes`."""
        return self._scenes

    def scene_notes(self) -> dict[str, Any]:
        """Return where the scenes are from (`source`), and a `warning` about them, or None.

        The warning is about test images that look like video, or lie between training images of one scene.
        """
        warning, test = None, self._parts["test"]
        if 2 * (count := beside_training(self._parts, self._scenes)) > len(test):
            warning = (
                f"{count} of {len(test)} test images of '{self.name}' are neighbours of training images in "
                "one scene, as frames of one drive are: they score what was learned of these places; "
                "data.split=hash cuts between whole scenes"
            )
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
        facts: dict[str, Any] = {
            "parts": self.names_fingerprint(),
            "files": {name: files[2 * place : 2 * place + 2] for place, name in enumerate(listed)},
            "scenes": {name: scene for name in listed if (scene := self._scenes.get(name, name)) != name},
        }
        if masks := {name: mask for name in listed if (mask := self._pairs[name].mask)}:
            facts["masks"] = dict(zip(masks, digests(list(masks.values())), strict=True))
            facts["mask_classes"] = sorted(self._classes or [])
        return json_sha256(facts)

    def names_fingerprint(self) -> str:
        """Return the SHA-256 (hex) of which id is in which part, which is all that older runs recorded."""
        return split_fingerprint(self._parts)


def _warn(message: str, *values: object) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one process of a training with several reports
        _log.warning(message, *values)


def _listed(names: Names) -> Sequence[str]:
    return [names] if isinstance(names, str) else [*(names or ())]


def load_pair(infrared: Path, visible: Path, ranges: Ranges | None = None) -> Pair:
    """Read two files as one pair; infrared stored in colour is reduced to its luma, in its own depth.

    Raises:
        UserError: the images differ in size, or as `read_image`.
    """
    return Pair(*read_registered(infrared, visible, ranges))
