"""Several data sets as one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clipfuse.data.pairs import PARTS, Pair, PairSource, labels_of
from clipfuse.files import json_sha256
from clipfuse.types import LabelSet


class MixedPairs:
    """The union of data sets, part by part: a training draws from all of them.

    A sample's id is `<key>-<id in its data set>`, its scene likewise. How often a data set is drawn is its
    share of all training pairs; for rendered ones `synthetic.train` sets it. Classes and boxes are kept
    where all data sets have the same `LabelSet`, by which alone a number means one thing; groups of images
    that differ between them are left out.

    Args:
        sources: the data sets by a key of your choice, one or more; all three parts of each are taken.
        name: the name in tables and messages.

    Raises:
        ValueError: there is no source, or two pairs get one name.
    """

    def __init__(self, sources: Mapping[str, PairSource], name: str = "mixed") -> None:
        if not sources:
            raise ValueError("data.sources is empty; name one data set or more")
        self.name = name
        self._sources = dict(sources)
        self._places: dict[str, tuple[PairSource, str]] = {}
        self._parts: dict[str, tuple[str, ...]] = {}
        for part in PARTS:
            places = [(key, sample) for key, source in sources.items() for sample in source.parts()[part]]
            self._parts[part] = tuple(f"{key}-{sample}" for key, sample in places)
            self._places |= {f"{key}-{sample}": (sources[key], sample) for key, sample in places}
        if len(self._places) < sum(map(len, self._parts.values())):
            raise ValueError("data.sources: two pairs get one name; choose keys of which none begins another")
        labels = [labels_of(source) for source in sources.values()]
        plain = [each and replace(each, groups=()) for each in labels]
        same = labels[0] if all(each == labels[0] for each in labels) else plain[0]
        self._labels = same if all(each == plain[0] for each in plain) else None
        self._scenes = {
            f"{key}-{sample}": f"{key}-{scene}"
            for key, source in sources.items()
            for sample, scene in getattr(source, "scenes", dict)().items()
        }

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Return the sample ids of "train", "val" and "test", disjoint, in a fixed order."""
        return self._parts

    def load(self, sample_id: str) -> Pair:
        """Read or render one pair, as its own data set does."""
        source, sample = self._places[sample_id]
        pair = source.load(sample)
        return pair if self._labels else replace(pair, classes=None, boxes=None)

    def labels(self) -> LabelSet | None:
        """Return what classes mean where all data sets agree in it; else None."""
        return self._labels

    def no_labels(self, kind: str) -> str:
        """Return why there are no "classes", "boxes" or "captions", and what to do."""
        if kind != "captions" and any(labels_of(source) for source in self._sources.values()):
            return (
                "its data sets have no labels in common, or name their classes differently; take one of them"
            )
        return f"not all of its data sets ({', '.join(self._sources)}) have them; take one that has"

    def labels_fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the `labels_fingerprint` of each data set that has one."""
        known = {
            key: source for key, source in self._sources.items() if hasattr(source, "labels_fingerprint")
        }
        return json_sha256({key: source.labels_fingerprint() for key, source in known.items()})

    def scenes(self) -> Mapping[str, str]:
        """Return the scene of each sample whose data set has scenes."""
        return self._scenes

    def scene_notes(self) -> dict[str, Any]:
        """Return where the scenes of each data set are from (`source`), and all `warning`s in one text."""
        notes = {
            key: source.scene_notes()
            for key, source in self._sources.items()
            if hasattr(source, "scene_notes")
        }
        warnings = [note["warning"] for note in notes.values() if note["warning"]]
        return {
            "source": ", ".join(f"{key}: {note['source']}" for key, note in notes.items()) or "names",
            "warning": "; ".join(warnings) or None,
        }

    def summary(self) -> str:
        """Return the `summary` of each data set that has one."""
        found = {key: source.summary() for key, source in self._sources.items() if hasattr(source, "summary")}
        return "; ".join(f"{key}: {text}" for key, text in found.items())

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the fingerprints of all data sets by their key."""
        return json_sha256({key: source.fingerprint() for key, source in self._sources.items()})

    def names_fingerprint(self) -> str:
        """Return the same of the `names_fingerprint` of each data set that has one."""
        fingerprints = {
            key: getattr(source, "names_fingerprint", source.fingerprint)()
            for key, source in self._sources.items()
        }
        return json_sha256(fingerprints)
