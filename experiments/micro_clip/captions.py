"""What can be said of an image, in many words: captions and the claims they make.

An image is described by its attributes, for instance {"band": "fused", "kind": "ideal", "quality": "clean"};
an attribute that is not known is left out. A caption claims that attributes have certain values, so that it
is true, false or undecided for each image, whoever it was drawn for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

Attributes = Mapping[str, str]
Claims = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Caption:
    """A text, and the claims it makes: it is true where all claims of one alternative hold."""

    text: str
    alternatives: tuple[Claims, ...]

    def holds(self, picture: Attributes) -> Literal[1, 0, -1]:
        """Return 1 if the caption is true of the image, 0 if not, -1 if that cannot be told."""
        found: Literal[1, 0, -1] = 0
        for claims in self.alternatives:
            if any(picture.get(name, values[0]) not in values for name, values in claims.items()):
                continue
            if all(name in picture for name in claims):
                return 1
            found = -1
        return found


IDEAL: Claims = {"band": ("fused",), "kind": ("ideal",), "quality": ("clean",)}
INFRARED, VISIBLE = {"band": ("infrared",)}, {"band": ("visible",)}
POOR = ({"kind": ("average", "target")}, {"band": ("fused",), "quality": ("blur", "low contrast", "ghost")})
# The texts that the losses ship as their defaults, letter by letter.
DEFAULTS = (
    Caption("a clear image with detailed background and salient objects", (IDEAL,)),
    Caption("a vivid image with clear background and obvious objects", (IDEAL,)),
    Caption("a visible gray image", (VISIBLE,)),
    Caption("a visible light gray image", (VISIBLE,)),
    Caption("an infrared image", (INFRARED,)),
    Caption(
        "This image's fusion is very harmonious, the texture is very clear, the target is very striking.",
        (IDEAL,),
    ),
    Caption(
        "This image's fusion is not well integrated, the texture is weak, and then the target is fuzzy, "
        "not prominent, and the features are relatively smooth and flat.",
        POOR,
    ),
)

# The attributes that are told apart on the way, and their values; see `labels`.
VALUES = {
    "band": ("infrared", "visible", "fused"),
    "kind": ("none", "ideal", "average", "maximum", "detail", "target", "odd"),
    "quality": ("clean", "blur", "noise", "low contrast", "over", "under", "ghost", "harsh", "artifact"),
    "polarity": ("hot", "cold"),
    "salience": ("high", "low", "none"),
    "weather": ("day", "dusk", "night", "fog"),
    "person": ("yes", "no"),
    "car": ("yes", "no"),
    "bike": ("yes", "no"),
}
THINGS = ("person", "car", "bike")

WORDS = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))


def article(words: str) -> str:
    """Put "a" or "an" before words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def draw(picture: Attributes, rng: np.random.Generator) -> Caption:
    """Return a random caption that is true of the image."""

    def pick(*path: str) -> str:
        """Return one of the words at a place in `WORDS`."""
        options = WORDS
        for key in path:
            options = options[key]
        return str(options[rng.integers(len(options))])

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    if chance(0.2):
        true = [caption for caption in DEFAULTS if caption.holds(picture) == 1]
        if true:
            return true[rng.integers(len(true))]
    kind, quality = picture.get("kind"), picture.get("quality")
    noun = pick("nouns")
    claims = dict[str, tuple[str, ...]]()
    if any(name in picture for name in THINGS) and chance(0.08):  # of the objects alone
        text = _things(picture, claims, rng, pick)
        return Caption(article(noun) + text, (claims,))
    if all(picture.get(name) in values for name, values in IDEAL.items()) and chance(0.45):
        words = [str(options[rng.integers(len(options))]) for options in WORDS["clear"]]
        text = "{} {} {} with {} {} and {} {}".format(*words)
        return Caption(text.format(n=noun), (IDEAL,))
    if kind is not None and kind in WORDS["kinds"] and chance(0.6):
        claims["kind"] = (kind,)
        whole = pick("kinds", kind) if chance(0.5) else f"{pick('fusions')} {pick('ways', kind)}"
        text = whole.format(n=noun)
        if quality and chance(0.4) and text.startswith("a fused"):
            claims["quality"] = (quality,)
            text = article(f"{pick('adjectives', quality)} {text[2:]}")
    else:
        text = _plain(picture, noun, claims, pick, chance)
    if "salience" in picture and chance(0.15) and " with" not in text:
        claims["salience"] = (picture["salience"],)
        text += f" {pick('salience', picture['salience'])}"
    if "weather" in picture and chance(0.15):
        claims["weather"] = (picture["weather"],)
        text += f" {pick('weathers', picture['weather'])}"
    elif chance(0.1) and "road" not in text:
        text += f" {pick('places')}"
    elif chance(0.2) and " with" not in text:
        text += _things(picture, claims, rng, pick)
    return Caption(text, (claims,))


def _things(
    picture: Attributes,
    claims: dict[str, tuple[str, ...]],
    rng: np.random.Generator,
    pick: Callable[..., str],
) -> str:
    """Return words for one or two objects that are seen, or one that is not, and add what they claim."""
    seen = [name for name in THINGS if picture.get(name) == "yes"]
    absent = [name for name in THINGS if picture.get(name) == "no"]
    if seen and (not absent or rng.random() < 0.7):
        named = [str(name) for name in rng.permutation(seen)[: int(rng.integers(1, 3))]]
        claims |= {name: ("yes",) for name in named}
        return f" {pick('with')} " + " and ".join(pick("things", name) for name in named)
    if absent:
        name = str(rng.choice(absent))
        claims[name] = ("no",)
        return f" {pick('absent', name)}"
    return ""


def _plain(
    picture: Attributes,
    noun: str,
    claims: dict[str, tuple[str, ...]],
    pick: Callable[..., str],
    chance: Callable[[float], bool],
) -> str:
    """Return words for band, polarity and quality, and add to `claims` what they claim."""
    band, quality = picture["band"], picture.get("quality")
    words, ending = noun, ""
    if chance(0.7):
        claims["band"] = (band,)
        if chance(0.75):
            words = f"{pick('bands', band)} {noun}"
        else:
            ending = f" {pick('sources', band)}"
        if "polarity" in picture and chance(0.15):
            claims["polarity"] = (picture["polarity"],)
            words = f"{pick('polarities', picture['polarity'])} {words}"
    if quality and (not claims or chance(0.6)):
        claims["quality"] = (quality,)
        if ending or chance(0.6):
            words = f"{pick('adjectives', quality)} {words}"
        else:
            ending = f" {pick('endings', quality)}"
    if not claims:
        claims["band"], words = (band,), f"{pick('bands', band)} {noun}"
    return article(words) + ending


def vocabulary() -> list[str]:
    """Return texts that together hold every word a caption can hold."""

    def leaves(words: Any) -> list[str]:
        if isinstance(words, str):
            return [words.replace("{n}", "")]
        return [
            leaf for part in (words.values() if isinstance(words, dict) else words) for leaf in leaves(part)
        ]

    return [*leaves(WORDS), "a an with and", *(caption.text for caption in DEFAULTS)]


def truth(pictures: Sequence[Attributes], captions: Sequence[Caption]) -> np.ndarray:
    """Return (P, C) int8: `Caption.holds` of each caption for each image."""
    return np.array([[caption.holds(picture) for caption in captions] for picture in pictures], np.int8)


def labels(pictures: Sequence[Attributes]) -> np.ndarray:
    """Return (P, len(VALUES)) int64: the place of each attribute's value, -1 where it is not known."""
    found = [
        [values.index(p[name]) if name in p else -1 for name, values in VALUES.items()] for p in pictures
    ]
    return np.array(found, np.int64)
