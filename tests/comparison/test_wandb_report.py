import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from clipfuse.comparison.wandb_report import publish
from clipfuse.errors import UserError

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def variants(tmp_path: Path) -> dict[str, list[Path]]:
    folders = [tmp_path / str(job) for job in range(3)]
    for folder in folders:
        log = folder / f"wandb/offline-run-20260101_000000-id{folder.name}/run-id{folder.name}.wandb"
        log.parent.mkdir(parents=True)
        log.touch()
    return {"pixel": folders[:2], "promptfusion": folders[2:]}


class Server:
    """W&B's answers, at the border that wandb and its reports library share."""

    app_url = "https://wandb.test"

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.saved: dict[str, Any] = {}

    def __call__(self, timeout: int | None = None) -> Any:
        def runs(place: str, filters: dict[str, Any]) -> list[Any]:
            assert place == "us/fusion"
            return [SimpleNamespace(id=each) for each in self.ids if each in filters["name"]["$in"]]

        projects = [SimpleNamespace(name="fusion")]
        return SimpleNamespace(_service_api=self, runs=runs, projects=lambda entity: projects)

    def execute_graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" not in query:
            return {"project": {"internalId": "UHJvamVjdA=="}}
        self.saved = variables
        project = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {key: variables[key] for key in ("name", "displayName", "description", "spec")}
        times = {"createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}
        return {
            "upsertView": {"view": {"id": "Vmlldzox", "type": "runs", "project": project, **view, **times}}
        }


def serve(monkeypatch: pytest.MonkeyPatch, *ids: str) -> Server:
    server = Server(list(ids))
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "Api", server)
    return server


def test_the_report_holds_table_curves_and_each_variant(
    variants: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(monkeypatch, "id0", "id1", "id2")
    address = publish("us/fusion", "losses", "| loss | SSIM |", variants, ["SSIM"], ["val/metric/SSIM"])
    assert address.startswith("https://wandb.test/us/fusion/reports/losses")
    assert server.saved["displayName"] == "losses"
    text, grid, *_ = (
        block for block in json.loads(server.saved["spec"])["blocks"] if block["type"] != "paragraph"
    )
    assert text["content"] == "| loss | SSIM |"
    sets = grid["metadata"]["runSets"]
    assert [each["name"] for each in sets] == ["pixel", "promptfusion"]
    for each, members in zip(sets, (["id0", "id1"], ["id2"]), strict=True):
        assert all(f'"{member}"' in json.dumps(each["filters"]) for member in members)
        assert "jobType" in json.dumps(each["grouping"])
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    bar, line, media, _ = (panel["config"] for panel in panels)
    assert bar["metrics"] == ["test/SSIM"]
    assert (line["xAxis"], line["metrics"]) == ("trainer/samples_seen", ["val/metric/SSIM"])
    assert media["mediaKeys"] == ["val/samples", "test/panel"]


def test_compare_publishes_its_table_and_runs(
    clipfuse: Command, sweep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for loss, seed in (("pixel", 0), ("pixel", 1), ("ldfusion", 0)):
        root = sweep(loss, seed=seed)
    for number, status in enumerate(sorted(root.rglob("status.json"))):
        log = status.parent / f"wandb/offline-run-1-id{number}/run-id{number}.wandb"
        log.parent.mkdir(parents=True)
        log.touch()
    server = serve(monkeypatch, "id0", "id1", "id2")
    code, out, _ = clipfuse("compare", str(root), "--metrics=SSIM", "--no-trivial", "--wandb=us/fusion")
    assert code == 0
    assert "report: https://wandb.test/us/fusion/reports/" in out
    text, grid, *_ = (
        block for block in json.loads(server.saved["spec"])["blocks"] if block["type"] != "paragraph"
    )
    assert "No winner is named: of 'ldfusion' there is one training" in text["content"]
    assert "| SSIM ↑" in text["content"]
    assert {each["name"] for each in grid["metadata"]["runSets"]} == {"pixel", "ldfusion"}
    code, _, error = clipfuse("compare", str(root), "--metrics=SSIM", "--no-trivial", "--wandb=fusion")
    assert code == 2
    assert "--wandb fusion: expected ENTITY/PROJECT" in error


def test_runs_that_are_not_there_yet_are_named(
    variants: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(monkeypatch, "id0", "id2")
    with pytest.raises(
        UserError, match=r"1 of 3 runs are not in us/fusion.*/1; upload.*wandb sync .*/1/wandb"
    ):
        publish("us/fusion", "losses", "", variants, ["SSIM"], [])
    assert not server.saved


@pytest.mark.parametrize("call", ["login", "Api"])
def test_a_server_that_does_not_answer(
    call: str, variants: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(**_: Any) -> None:
        raise wandb.errors.CommError("no route\nto host")

    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, call, unreachable)
    with pytest.raises(
        UserError, match=r"us/fusion: W&B cannot be reached or refuses \(no route to host\).*--html"
    ):
        publish("us/fusion", "losses", "", variants, ["SSIM"], [])


def test_without_a_login_nobody_is_asked_for_one(
    variants: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb, "login", lambda prompt: prompt)
    with pytest.raises(UserError, match=r"no W&B login is found; run `wandb login`"):
        publish("us/fusion", "losses", "", variants, ["SSIM"], [])


def test_without_the_package(variants: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"pip install 'clipfuse\[wandb\]'"):
        publish("us/fusion", "losses", "", variants, ["SSIM"], [])


@pytest.mark.parametrize("place", ["fusion", "us/", "us/fusion/runs"])
def test_a_place_that_is_none(place: str, variants: dict[str, list[Path]]) -> None:
    with pytest.raises(UserError, match=r"expected ENTITY/PROJECT"):
        publish(place, "losses", "", variants, ["SSIM"], [])


def test_a_run_that_was_not_logged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was trained without logger=wandb"):
        publish("us/fusion", "losses", "", {"pixel": [tmp_path]}, ["SSIM"], [])
