"""The rule of the recipe search, its recipes, its plain alternatives, and published scores."""

from itertools import chain

import pytest
import torch
from experiments.best_recipe import published, rule, search
from experiments.best_recipe.plain import PlainAutoencoder
from experiments.best_recipe.show import untrained
from experiments.common import compose_run

from clipfuse.backbones.contourlet_autoencoder import ContourletAutoencoder
from clipfuse.cli.config import check_config
from clipfuse.cli.train import GROUPS
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.ops.pyramid import energy_fusion
from clipfuse.runs.train import TrainSettings

SMALL = {"dim": 4, "heads": 1, "encoder_blocks": 1, "decoder_blocks": 1, "unet_width": 2, "stride": 2}


def test_ranks_are_averaged_over_the_scores_that_all_have() -> None:
    low = dict.fromkeys((*rule.METRICS, "noise"), 0.0)
    high = dict.fromkeys((*rule.METRICS, "noise"), 1.0)
    # Eight first places and, because less noise is better, a second one.
    assert rule.average_ranks({"low": low, "high": high}) == {"low": (8 * 2 + 1) / 9, "high": (8 * 1 + 2) / 9}


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({}, None),
        ({"noise": 0.21}, "noise 0.210, the maximum has 0.100"),
        ({"AG": 5.1}, "AG 5.10, the Laplacian pyramid has 4.00"),
        ({rule.FROM_MAXIMUM: 3.9}, "3.9 grey levels from the maximum"),
    ],
)
def test_what_is_rejected(own: dict[str, float], reason: str | None) -> None:
    fair = {"noise": 0.1, "AG": 4.0, rule.FROM_MAXIMUM: 10.0}
    scores = {
        "mine": {**fair, **own},
        rule.LAPLACIAN: fair,
        "trivial:maximum": {**fair, rule.FROM_MAXIMUM: 0.0},
    }
    assert rule.rejection("mine", scores) == reason
    assert rule.rejection("trivial:maximum", scores) is None


def test_scores_of_rendered_scenes() -> None:
    scenes = rule.load_scenes(SyntheticPairs(train=1, val=2, test=1, size=96), "val")
    found = rule.score(scenes, rule.trivial)
    assert len(found) == 6
    assert found["trivial:maximum"][rule.FROM_MAXIMUM] == 0
    # The sum of the deviations has both bands' in full: what one leaves is the other, but for clipping.
    assert found["trivial:sum"]["SCD"] == max(row["SCD"] for row in found.values()) > 1.5
    assert found[rule.LAPLACIAN]["AG"] > found["trivial:average"]["AG"]


def test_every_recipe_composes() -> None:
    weights = search.FIDELITIES["all"]
    first = search.fidelities(search.base("pairs"))
    second = {name: recipe for name, (recipe, _) in search.starts(first["all"], weights).items()}
    third = search.guidances(second["pyramid"], weights)
    fourth = search.settings(third["promptfusion"], "pairs")
    fifth = search.lengths(fourth["crops of 96"], "promptfusion", weights)
    recipes = {**first, **second, **third, **fourth, **fifth}
    assert len(recipes) == 12 + 23 + 7 + 7 + 9
    assert "loss.warmup=20" in fifth["100 updates"]["loss"]
    assert "loss.fidelity.ssim_weight=3" in fifth["1000 updates, ssim 3"]["loss"]
    tried: set[str] = set()
    for recipe in recipes.values():
        words = [word for word in chain(*recipe.values()) if not word.startswith("seed=")]
        if tried.issuperset(words):
            continue  # each override is tried in the first recipe that has it
        tried.update(words)
        config = compose_run(words)
        config.name = "test"
        check_config(config, TrainSettings, GROUPS)


def test_the_best_that_is_not_rejected_wins() -> None:
    fair = {**dict.fromkeys(rule.METRICS, 1.0), "noise": 0.1, rule.FROM_MAXIMUM: 10.0}
    better, worse, noisy = (fair | dict.fromkeys(("EN", "SD"), value) for value in (2.0, 0.5, 9.0))
    rows = {
        "noisy": [noisy | {"noise": 0.3}],
        "worse": [worse],
        "better": [better, better],
        "trivial:maximum": [fair],
        rule.LAPLACIAN: [fair],
    }
    winner, table = search.decide({"real": rows, "rendered": rows})
    assert winner == "better"
    assert "Rejected: noisy: noise 0.300, the maximum has 0.100" in table
    # First of four by two scores, one of four equals by seven.
    assert "mean rank 2.17; best of all: better" in table


def test_the_plain_network_has_as_many_parameters() -> None:
    networks = [kind(**SMALL) for kind in (ContourletAutoencoder, PlainAutoencoder)]
    shapes = [[parameter.shape for parameter in network.parameters()] for network in networks]
    assert shapes[0] == shapes[1]
    plane = torch.rand(1, 1, 64, 64)
    coarse, plain = (network.detail.subbands(plane) for network in networks)
    assert [subband.shape for subband in coarse] == [subband.shape for subband in plain]


def test_gains_over_the_pyramid_are_compared_across_pictures() -> None:
    scores = published.read_published()["TNO"]
    # Pictures on which every score is twice as high change nothing: MI, VIF and Qabf are ahead of CDDFuse.
    ours = {
        name: {metric: 2 * value for metric, value in scores[key].items()}
        for name, key in ((published.OURS, "maximum"), (published.PYRAMID, published.PYRAMID))
    }
    table = published.compare_gains(ours).splitlines()
    assert len(table) == 2 + 1 + 11 + 5
    assert table[2] == "| ours | our test scenes | +1 | +23 | -22 | +280 | -7 | +35 | +11 | -2 |  |"
    row = next(line for line in table if line.startswith("| CDDFuse | TNO"))
    assert row == "| CDDFuse | TNO | +5 | +41 | +3 | +77 | +7 | +13 | +0 | +1 | 3 of 8 |"
    # A tie is not more: the same method against itself.
    assert next(line for line in table if line.startswith("| maximum | TNO")).endswith("| 0 of 8 |")


def test_the_untrained_network_shows_its_start() -> None:
    network = ContourletAutoencoder(**SMALL, residual="energy", detail_gain=1.1, base_gain=1.3)
    torch.nn.init.normal_(network.render.weight)
    infrared, visible = torch.rand(2, 1, 1, 64, 64)
    start = energy_fusion(infrared, visible, 1.1, 1.3).clamp(0.01, 0.99)
    # sigmoid(logit(x)) in float32 is x but for some rounding, 1e-7 each.
    torch.testing.assert_close(untrained(network)(infrared, visible).fused, start, rtol=0, atol=1e-6)
    assert not torch.allclose(network(infrared, visible).fused, start, atol=1e-3)
