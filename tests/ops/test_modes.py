import pytest
from torch import nn

from clipfuse.ops.modes import evaluating


def test_each_part_gets_its_own_mode_back() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(1), nn.Dropout()))
    module[1].eval()
    before = [part.training for part in module.modules()]
    with pytest.raises(KeyError):
        _fail_within(module)
    assert [part.training for part in module.modules()] == before
    assert True in before
    assert False in before


def _fail_within(module: nn.Module) -> None:
    with evaluating(module):
        assert not any(part.training for part in module.modules())
        raise KeyError
