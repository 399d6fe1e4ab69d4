"""What every data set of the package has."""

from pathlib import Path

import pytest
import yaml
from hydra.utils import get_class

from clipfuse.cli.options import conf_dir
from clipfuse.data.pairs import PARTS, PairSource

CLASSES = sorted(
    {yaml.safe_load(path.read_text()).get("_target_") for path in (conf_dir() / "data").glob("*.yaml")}
    - {None}
)


@pytest.mark.parametrize("name", CLASSES)
def test_each_data_set_of_the_configuration_has_the_shape_of_one(name: str) -> None:
    needed = {word for word in vars(PairSource) if not word.startswith("_")} - {"name"}
    assert needed == {"parts", "load", "scenes", "fingerprint"}
    assert all(callable(getattr(get_class(name), word)) for word in needed)


def test_a_folder_is_a_source_of_three_parts(pairs_folder: Path) -> None:
    from clipfuse.data.folder import PairedFolder

    source = PairedFolder(str(pairs_folder))
    assert isinstance(source, PairSource)
    assert set(source.parts()) == set(PARTS) == {"train", "val", "test"}
    assert not isinstance(object(), PairSource)
