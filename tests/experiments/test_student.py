from experiments.student.report import Rows, score, table
from experiments.student.train import middle

from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.networks.distilling import Lesson
from clipfuse.ops.depth import to_unit


def test_scores_and_the_table_of_both() -> None:
    source = SyntheticPairs(train=1, val=1, test=1, size=64)
    rows = score(source, source.parts()["test"], {"teacher": ConvTiny(4, 0), "student": ConvTiny(4, 0)})
    assert {"VIF", "Qabf", "kept-targets", "levels"} <= rows.keys()
    assert all(one == other for name, pairs in rows.items() for one, other in pairs if name != "levels")
    assert rows["levels"] == [(0.0, 0.0)]
    made: Rows = {"VIF": [(0.5, 0.4), (0.5, 0.5)], "levels": [(0.0, 1.0), (0.0, 3.0)]}
    assert table({"rendered": made})[2:] == [
        "| rendered (2) | VIF | 0.5000 | 0.4500 | 90.0% | 80.0% |",
        "| rendered (2) | mean difference of pixels, levels of 255 |  | 2.00 |  | 3.00 |",
    ]


def test_the_middle_of_a_lesson() -> None:
    pair = SyntheticPairs(train=1, val=1, test=1, size=128).load("train-000000")
    plane = to_unit(pair.infrared)[None]
    found = middle(Lesson(plane, plane, plane))
    assert found.chroma is None
    assert found.taught.equal(plane[..., 16:112, 16:112])
