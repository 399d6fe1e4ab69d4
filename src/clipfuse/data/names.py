"""The words by which the names of files and folders mark a band."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

BANDS = ("infrared", "visible")
INFRARED_NAMES = ("ir", "infrared", "inf", "infra", "thermal", "lwir", "mwir", "swir", "nir", "fir", "tir")
VISIBLE_NAMES = ("vi", "vis", "visible", "visual", "rgb")
# Counted only where the words above leave files without a partner: the 1i and 1v of RGBT234, imgr and img of
# DroneVehicle.
SECOND_NAMES: Mapping[str, Sequence[str]] = {
    "infrared": ("i", "t", "th", "thr", "therm", "thermo", "imgr", "previewdata"),
    "visible": ("v", "c", "co", "color", "colour", "gray", "grey", "img", "eo", "optical"),
}
# Folders of these words hold no source, whatever else is in their names.
_NO_SOURCE = frozenset(
    (
        *("label", "labels", "mask", "masks", "gt", "groundtruth", "seg", "segmentation", "annotation"),
        *("annotations", "fused", "fusion", "depth", "saliency", "edge", "edges"),
    )
)
_ALIGNED = frozenset(("aligned", "registered", "warped"))  # left out of a name that marks a band
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Words:
    """The words of both bands.

    A name is cut at signs, digits and humps ("ThermalImages_01" is thermal, images, 01). It marks a band if
    one of its pieces is a word of that band, and none is a word of the other.

    Args:
        infrared: words of the infrared band, in lower case.
        visible: words of the visible band.
        folders: the name of a band's folders, in lower case, where the user named them: no other folder
            marks that band.
    """

    infrared: Sequence[str] = INFRARED_NAMES
    visible: Sequence[str] = VISIBLE_NAMES
    folders: Mapping[str, str] = field(default_factory=dict)

    def with_second_names(self) -> "Words":
        """Return these words and `SECOND_NAMES`, but for a band whose words were chosen."""
        standard = {"infrared": INFRARED_NAMES, "visible": VISIBLE_NAMES}
        more = {
            band: (*words, *SECOND_NAMES[band]) if (words := getattr(self, band)) is standard[band] else words
            for band in BANDS
        }
        return Words(**more, folders=self.folders)

    def of_folder(self, name: str) -> tuple[str | None, str]:
        """Return the band that the name of a folder marks, or None, and the name without its marks."""
        for band, chosen in self.folders.items():
            if name.lower() == chosen:
                return band, ""
        if not _NO_SOURCE.isdisjoint(piece.lower() for piece in _LETTERS.findall(name)):
            return None, name
        mark, rest = self.of_file(name)
        return (None, name) if mark in self.folders else (mark, rest)

    def of_file(self, name: str) -> tuple[str | None, str]:
        """Return the band that a name marks, or None, and the name without its marks ("IR_01" -> "01")."""
        found: set[str] = set()

        def strip(match: re.Match[str]) -> str:
            piece = match[0]
            if piece.lower() in _ALIGNED:
                return ""
            if band := self._of(piece):
                found.add(band)
                return ""
            humps = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z]+", piece)
            bands = [self._of(hump) if len(hump) > 1 else None for hump in humps]
            found.update(band for band in bands if band)
            return "".join(hump for hump, band in zip(humps, bands, strict=True) if not band)

        rest = _LETTERS.sub(strip, name)
        if len(found) != 1:
            return None, name
        return found.pop(), re.sub(r"([_\-. ])[_\-. ]+", r"\1", rest).strip("_-. ")

    def _of(self, piece: str) -> str | None:
        piece = piece.lower()
        for band in BANDS:
            words = getattr(self, band)
            if not _cores(piece).isdisjoint(words):
                return band
        return None


@cache
def _cores(piece: str) -> frozenset[str]:
    """Return a piece as it is and without what stands before or after a word of a band ("cropinfrared")."""
    cores = {piece, re.sub(r"^(?:crop|train|val|test)(?=..)", "", piece)}
    cores |= {re.sub(r"(?<=..)(?:s|images?|imgs?|frames?)$", "", core) for core in cores}
    return frozenset(cores)
