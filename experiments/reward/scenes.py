"""The pairs that the scorer in the package learns from, and those it is judged on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from experiments.common import MSRS_SCENES
from torch import Tensor

from clipfuse.data.folder import PairedFolder
from clipfuse.data.pairs import Pair
from clipfuse.data.synthetic.source import SyntheticPairs
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit
from clipfuse.ops.seeding import derived_seed
from clipfuse.rewards.learning import Comparisons
from clipfuse.rewards.network import SCORES
from clipfuse.rewards.pairs import KINDS, Made, make_pair

SIDE = 96


@dataclass(frozen=True)
class Scene:
    """Luma planes (1, 1, H, W) in [0, 1]; the reference where the truth is known."""

    name: str
    infrared: Tensor
    visible: Tensor
    reference: Tensor | None


def _scene(name: str, pair: Pair) -> Scene:
    luma, _ = rgb_to_luma_chroma(to_unit(pair.visible))
    reference = None if pair.reference is None else to_unit(pair.reference)[None]
    return Scene(name, to_unit(pair.infrared)[None], luma[None], reference)


def scenes(data: str, part: str, most: int | None = None) -> list[Scene]:
    """Return the scenes of one data set: rendered, msrs or roadscene, and of its part train, val or test.

    MSRS: `train` and `val` are cut by whole scenes from the training folder of our split, `test` is its test
    folder. RoadScene: the parts of the shipped split, which has none of the usual 50 test pairs.
    """
    if data == "rendered":
        source: PairedFolder | SyntheticPairs = SyntheticPairs(train=300, val=60, test=60, size=160, seed=0)
    elif data == "roadscene":
        source = PairedFolder(f"{os.environ['CLIPFUSE_DATA']}/roadscene", split="roadscene")
    else:
        folder = "test" if part == "test" else "train"
        root = f"{os.environ['CLIPFUSE_DATA']}/msrs/{folder}"
        val, test = (0.0, 1.0) if part == "test" else (0.2, 0.0)
        source = PairedFolder(root, split="hash", val=val, test=test, scenes=MSRS_SCENES, name="msrs")
    names = list(source.parts()[part])
    if most is not None and len(names) > most:
        names = names[:: len(names) // most][:most]
    return [_scene(f"{data}/{name}", source.load(name)) for name in names]


class Draw:
    """update -> comparisons of one batch: crops through random cameras, kinds of defects in turn."""

    def __init__(self, sets: Sequence[Sequence[Scene]], batch: int, seed: int) -> None:
        self.sets, self.batch, self.seed = sets, batch, seed
        self.kinds = [*KINDS, *(name for name, kind in KINDS.items() if kind.local)]  # the hard ones twice

    def __call__(self, update: int) -> Comparisons:
        """Return the batch of an update."""
        rows = []
        for place in range(self.batch):
            seed = derived_seed(self.seed, "reward", update, place)
            draws = torch.Generator().manual_seed(seed)
            group = self.sets[(update * self.batch + place) % len(self.sets)]
            scene = group[int(torch.randint(len(group), (), generator=draws))]
            kind = self.kinds[int(torch.randint(len(self.kinds), (), generator=draws))]
            infrared, visible, reference = _view(scene, draws)
            rows.append((infrared, visible, make_pair(kind, infrared, visible, reference, seed + 1)))
        return _stacked(rows)


def whole(scene: Scene, kind: str, seed: int) -> Comparisons:
    """Return one comparison of a whole scene, cut to 224 px at most."""
    cut = [
        None if each is None else each[..., :224, :224]
        for each in (scene.infrared, scene.visible, scene.reference)
    ]
    assert cut[0] is not None
    assert cut[1] is not None
    return _stacked([(cut[0], cut[1], make_pair(kind, cut[0], cut[1], cut[2], seed))])


def _stacked(rows: Sequence[tuple[Tensor, Tensor, Made]]) -> Comparisons:
    made = [row[2] for row in rows]
    wins = torch.full((len(rows), len(SCORES)), torch.nan)
    for at, each in enumerate(made):
        wins[at, [SCORES.index(name) for name in each.scores]] = 1.0
    unknown = torch.full_like(made[0].good, torch.nan)
    return Comparisons(
        torch.cat([each.good for each in made]),
        torch.cat([each.bad for each in made]),
        torch.cat([row[0] for row in rows]),
        torch.cat([row[1] for row in rows]),
        wins,
        torch.cat([unknown if each.where is None else each.where for each in made]),
    )


def _view(scene: Scene, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return infrared, visible and reference of a random crop, scaled, mirrored, with other cameras."""
    height, width = scene.infrared.shape[-2:]
    one = torch.rand(6, generator=draws).tolist()
    side = min(height, width, int(SIDE * (1 if one[0] < 0.5 else 1 + one[1])))
    top, left = int(one[2] * (height - side + 1)), int(one[3] * (width - side + 1))
    found: list[Tensor | None] = []
    for plane, draw in ((scene.infrared, one[4]), (scene.visible, one[5]), (scene.reference, None)):
        if plane is None:
            found.append(None)
            continue
        cut = plane[..., top : top + side, left : left + side]
        if side != SIDE:
            cut = F.interpolate(cut, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        cut = cut.flip(-1) if one[1] < 0.5 else cut
        if draw is not None and scene.reference is None:  # an ideal image fits its own sources alone
            cut = cut ** (2 ** (draw - 0.5))
        found.append(cut.clamp(0, 1))
    infrared, visible, reference = found
    assert infrared is not None
    assert visible is not None
    return infrared, visible, reference
