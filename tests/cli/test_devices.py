import pytest
import torch

from clipfuse.cli.devices import chosen_device
from clipfuse.errors import UserError


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device(None, "--device ") == torch.device("cpu")
    assert chosen_device("cpu", "--device ") == torch.device("cpu")
    tried = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: tried.append(device))
    assert chosen_device(None, "--device ") == torch.device("cuda")
    assert tried == [torch.device("cuda")]


@pytest.mark.parametrize("name", ["warp9", "cuda:77"])
def test_one_that_cannot_be_used_is_named_as_it_was_given(name: str) -> None:
    with pytest.raises(UserError, match=f"^device={name} cannot be used here: "):
        chosen_device(name, "device=")
