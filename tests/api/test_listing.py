import pytest

from clipfuse import list_backbones, list_losses, list_metrics
from clipfuse.cli.options import conf_dir
from clipfuse.errors import UserError


def test_losses_and_backbones_are_the_files_of_the_configuration() -> None:
    for group, found in {"loss": list_losses(), "backbone": list_backbones()}.items():
        files = {path.stem for path in (conf_dir() / group).glob("*.yaml")}
        assert set(found) == files - {"custom"}
    assert "promptfusion" in list_losses()


def test_metrics_are_those_of_the_protocol() -> None:
    assert {"SSIM", "Qabf"} <= set(list_metrics())
    assert len(list_metrics("cddfuse")) < len(list_metrics())
    with pytest.raises(UserError, match="Did you mean 'strict'"):
        list_metrics("stritc")
