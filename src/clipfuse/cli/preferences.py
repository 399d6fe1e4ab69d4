"""A table of choices between fused images: read, checked, divided by scenes, and drawn from."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from clipfuse.rewards.learning import Comparisons

IMAGES = ("infrared", "visible", "first", "second")
WINS = {"first": 1.0, "second": 0.0, "tie": 0.5}
_CROP = 128  # px, side of what a training sees of an image


@dataclass(frozen=True)
class Choice:
    """One line of the table.

    Attributes:
        files: infrared, visible, first and second image.
        wins: 1 where the first image is preferred, 0 where the second one is, 0.5 for a tie.
        rater: who chose; "" where the table does not name it.
        score: the score that the choice is about.
    """

    files: tuple[Path, ...]
    wins: float
    rater: str
    score: str

    @property
    def scene(self) -> str:
        """Its sources: choices between fused images of one scene are never divided."""
        return "\n".join(map(str, self.files[:2]))


def read_choices(table: Path) -> list[Choice]:
    """Read a table of choices; paths are relative to its folder.

    Args:
        table: CSV with the columns infrared, visible, first, second and preferred (first, second or tie), and
            possibly rater and score (by default "overall").

    Raises:
        UserError: the table, a column or an image is missing, a cell cannot be read, the images of a line
            differ in size, or no line prefers an image; names the line.
    """
    from clipfuse.files import read_csv
    from clipfuse.images import check_sizes

    choices = []
    rows = read_csv(table, (*IMAGES, "preferred"), remedy="see docs/rewards.md for the columns")
    for number, row in enumerate(rows, 2):
        where = f"{table}: row {number}"
        preferred = row["preferred"].strip().lower()
        if preferred not in WINS:
            near = did_you_mean(preferred, WINS)
            raise UserError(
                f"{where} has {row['preferred']!r} in the column preferred.{near} Expected first, second "
                "or tie"
            )
        score = (row.get("score") or "overall").strip()
        if not score.isidentifier():
            raise UserError(f"{where} has the score {score!r}; expected one word, such as overall")
        for name in IMAGES:
            if not row[name].strip():
                raise UserError(f"{where} has no {name}; expected the path of an image")
        files = tuple(table.parent / row[name].strip() for name in IMAGES)
        if absent := next((file for file in files if not file.is_file()), None):
            raise UserError(f"{where}: there is no file {absent}; paths are relative to the table's folder")
        if files[2].resolve() == files[3].resolve():
            raise UserError(f"{where} has one image, {files[2]}, as first and as second; expected two")
        choices.append(Choice(files, WINS[preferred], (row.get("rater") or "").strip(), score))
    if all(choice.wins == WINS["tie"] for choice in choices):
        found = "has ties alone" if choices else "has no choices"
        raise UserError(f"{table} {found}; expected lines that prefer the first or the second image")
    check_sizes({f"row {number}": choice.files for number, choice in enumerate(choices, 2)})
    return choices


def divide(choices: Sequence[Choice], holdout: float, seed: int) -> tuple[list[Choice], list[Choice]]:
    """Return choices to learn from, and those of the scenes that are held out, at least one scene each.

    Raises:
        UserError: there is one scene alone, or nothing to learn is left.
    """
    from clipfuse.ops.seeding import derived_seed

    scenes = sorted(
        {choice.scene for choice in choices}, key=lambda name: derived_seed(seed, "holdout", name)
    )
    if not holdout:
        return list(choices), []
    if len(scenes) < 2:
        raise UserError(
            "all choices are of one scene, and a scorer is judged on scenes that it has not seen: add "
            "choices of another pair of infrared and visible image, or give --holdout 0"
        )
    count = min(max(1, round(holdout * len(scenes))), len(scenes) - 1)
    out = set(scenes[:count])
    learnt = [choice for choice in choices if choice.scene not in out]
    if all(choice.wins == WINS["tie"] for choice in learnt):
        raise UserError("the scenes that are not held out have ties alone; add choices, or change --holdout")
    return learnt, [choice for choice in choices if choice.scene in out]


def counted(choices: Sequence[Choice], held_out: Sequence[Choice]) -> str:
    """Return how many choices, raters and scenes there are, in words."""
    both = [*choices, *held_out]
    scenes, raters = len({each.scene for each in both}), {each.rater for each in both if each.rater}
    by = f" by {len(raters)} rater{'s' * (len(raters) > 1)}" if raters else ""
    scores = ", ".join(f"{name} {count}" for name, count in Counter(each.score for each in both).items())
    return (
        f"{len(both)} choices{by} on {scenes} scenes ({scores}); "
        f"{len(held_out)} of them held out, of {len({each.scene for each in held_out})} scenes"
    )


@lru_cache(maxsize=256)
def luma(file: Path) -> "Tensor":
    """Return the luma of an image, (1, 1, H, W) in its own depth."""
    from clipfuse.images import gray, read_image

    return gray(read_image(file))[None]


def draws(
    choices: Sequence[Choice], scores: Sequence[str], batch: int, seed: int, device: object
) -> "Callable[[int], Comparisons]":
    """Return update -> comparisons of random crops, a scene as likely as any other."""
    import torch

    from clipfuse.decoding.reading import read_header
    from clipfuse.ops.seeding import derived_seed

    by_scene: dict[str, list[Choice]] = {}
    for choice in choices:
        by_scene.setdefault(choice.scene, []).append(choice)
    groups = list(by_scene.values())
    headers = [read_header(group[0].files[0]) for group in groups]
    side = min([_CROP, *(min(header.width, header.height) for header in headers)])

    def draw(update: int) -> "Comparisons":
        cuts = []
        for place in range(batch):
            random = torch.Generator().manual_seed(derived_seed(seed, "choices", update, place))
            group = groups[int(torch.randint(len(groups), (), generator=random))]
            choice = group[int(torch.randint(len(group), (), generator=random))]
            height, width = luma(choice.files[0]).shape[-2:]
            top = int(torch.randint(height - side + 1, (), generator=random))
            left = int(torch.randint(width - side + 1, (), generator=random))
            cuts.append((choice, slice(top, top + side), slice(left, left + side)))
        return _comparisons(cuts, scores, device)

    return draw


def _comparisons(
    cuts: "Sequence[tuple[Choice, slice, slice]]", scores: Sequence[str], device: object
) -> "Comparisons":
    import torch

    from clipfuse.ops.depth import to_unit
    from clipfuse.rewards.learning import Comparisons

    planes = [
        torch.cat([to_unit(luma(choice.files[at])[..., rows, columns]) for choice, rows, columns in cuts])
        for at in range(len(IMAGES))
    ]
    wins = torch.full((len(cuts), len(scores)), torch.nan)
    for at, (choice, _, _) in enumerate(cuts):
        wins[at, list(scores).index(choice.score)] = choice.wins
    infrared, visible, first, second, wins = (each.to(device) for each in (*planes, wins))  # type: ignore[call-overload]
    return Comparisons(first, second, infrared, visible, wins)


def accuracy(
    choices: Sequence[Choice], prefers: "Callable[[Choice], Mapping[str, float]]"
) -> dict[str, tuple[float, float, float, int]]:
    """Return by score: share of choices that a scorer makes too, its 95 % interval, and their number.

    Ties do not count. The interval is Wilson's, of as many samples as there are scenes: choices on one scene
    depend on each other. Own design, on the safe side.

    Args:
        choices: held out.
        prefers: choice -> by score, a number above 0 where the first image is better.
    """
    right: dict[str, list[float]] = {}
    scenes: dict[str, set[str]] = {}
    for choice in choices:
        if choice.wins != WINS["tie"]:
            difference = prefers(choice).get(choice.score, 0.0)
            agrees = 0.5 if difference == 0 else float((difference > 0) == (choice.wins > 0.5))
            right.setdefault(choice.score, []).append(agrees)
            scenes.setdefault(choice.score, set()).add(choice.scene)
    return {
        name: (share := sum(found) / len(found), *wilson(share, len(scenes[name])), len(found))
        for name, found in right.items()
    }


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` samples (Wilson, JASA 22, 1927)."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return middle - reach, middle + reach
