"""The `models` verbs and runs over several days, as a person types them."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from batch_assets.demo.train import PIPELINE
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.nightly.freeze import freeze
from batch_assets.orchestration.catalog import pipeline
from batch_assets.storage import LocalStorage
from batch_assets_tests.conftest import Command
from batch_assets_tests.small import Quiet

pytestmark = pytest.mark.process

DAYS = ["1998-06-27", "1998-06-28", "1998-06-29"]


@pytest.fixture
def retold(command: Command, tmp_path: Path) -> Command:
    """The demo's model once more, as v2 with another card: register takes the files, approve has a number."""
    folder = command.root / "models" / PIPELINE / "v1"
    card = json.loads((folder / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**card, "description": "the same network, told otherwise"}))
    files = ("--model", str(folder / "model.pt2"), "--card", str(tmp_path / "card.json"))
    assert "v2 is registered" in command.run("models", "register", PIPELINE, "v2", *files).stdout
    return command


def test_from_registration_to_retirement(retold: Command) -> None:
    shown = retold.run("models", "diff", PIPELINE, "v1", "v2").stdout
    assert "told otherwise" in shown
    assert "model_sha256" not in shown
    dry = retold.run("models", "approve", PIPELINE, "v2", "--why", "words", "--dry-run")
    assert "this was a dry run" in dry.stdout
    done = retold.run("models", "approve", PIPELINE, "v2", "--why", "words", "--by", "Ann", "--json")
    assert json.loads(done.stdout)["approval"] == 2
    trail = json.loads(retold.run("models", "show", PIPELINE, "v2", "--json").stdout)["approvals"]
    assert [(one["version"], one["by"], one["why"]) for one in trail][-1] == ("v2", "Ann", "words")
    refused = retold.run("models", "retire", PIPELINE, "v2", "--why", "no")
    assert refused.returncode == 1
    assert "the alias batch names it" in refused.stderr
    assert retold.run("models", "retire", PIPELINE, "v1", "--why", "old", "--by", "Ann").returncode == 0
    refused = retold.run("models", "approve", PIPELINE, "v1", "--why", "back", "--by", "Bob")
    assert refused.returncode == 1
    assert "was retired by Ann (old)" in refused.stderr
    assert "retired" in retold.run("models", "list").stdout


def test_verify_names_what_was_changed(retold: Command) -> None:
    assert retold.run("models", "verify").returncode == 0
    path = retold.root / "models" / PIPELINE / "v2" / "model.pt2"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = retold.run("models", "verify", "--json")
    assert done.returncode == 1
    faults = {one["version"]: one["fault"] for one in json.loads(done.stdout)["versions"]}
    assert faults["v1"] == ""
    assert "the file was changed" in faults["v2"]


@pytest.mark.parametrize("what", ["model", "card"])
def test_what_is_no_model_is_refused_in_a_sentence(command: Command, tmp_path: Path, what: str) -> None:
    folder = command.root / "models" / PIPELINE / "v1"
    files = {"model": folder / "model.pt2", "card": folder / "card.json"}
    (tmp_path / "bad").write_bytes(b"\x80\x04]q\x00.")
    files[what] = tmp_path / "bad"
    arguments = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    done = command.run("models", "register", PIPELINE, "v3", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    for name in ("../v4", "a/b"):
        assert command.run("models", "register", PIPELINE, name, *arguments).returncode == 1


@pytest.mark.long
def test_outputs_that_look_like_something_else_are_refused_until_somebody_confirms_them(
    command: Command, tmp_path: Path
) -> None:
    """A network that ends in a sigmoid, with a card that says logits; tried on rows of its contract and on those of a day."""
    layer = torch.nn.Linear(7, 1)
    torch.nn.init.constant_(layer.weight, 1e-3)
    model = export_model(torch.nn.Sequential(layer, torch.nn.Sigmoid()), 7)
    card = json.loads((command.root / "models" / PIPELINE / "v1" / "card.json").read_text())
    (tmp_path / "model.pt2").write_bytes(model)
    (tmp_path / "card.json").write_text(json.dumps({**card, "model_sha256": hashlib.sha256(model).hexdigest()}))
    freeze(pipeline(PIPELINE), LocalStorage(str(command.root)), DAYS[0], Quiet())
    files = ("--model", str(tmp_path / "model.pt2"), "--card", str(tmp_path / "card.json"))
    for tried in ((), ("--baseline", PIPELINE, DAYS[0])):
        refused = command.run("models", "register", PIPELINE, "v2", *files, *tried)
        assert refused.returncode == 1
        assert "squashed twice" in refused.stderr
        assert "--confirm-outputs" in refused.stderr
        assert ("--baseline" in refused.stderr) == (not tried)
    done = command.run("models", "register", PIPELINE, "v2", *files, "--confirm-outputs", "--json")
    assert json.loads(done.stdout)["warnings"] == []
    shown = json.loads(command.run("models", "show", PIPELINE, "v2", "--json").stdout)
    assert (shown["card"]["head"]["returns"], shown["card"]["head"]["confirmed"]) == ("logits", True)


def test_a_column_that_changes_nothing_is_a_warning(command: Command, tmp_path: Path) -> None:
    network = torch.nn.Linear(7, 1)
    with torch.no_grad():
        network.weight[0] = torch.tensor([1.0, -1.0, 1.0, 0.0, 1.0, -1.0, 1.0])
    model = export_model(network, 7)
    card = json.loads((command.root / "models" / PIPELINE / "v1" / "card.json").read_text())
    (tmp_path / "model.pt2").write_bytes(model)
    (tmp_path / "card.json").write_text(json.dumps({**card, "model_sha256": hashlib.sha256(model).hexdigest()}))
    done = command.run(
        "models", "register", PIPELINE, "v2", "--model", str(tmp_path / "model.pt2"), "--card", str(tmp_path / "card.json")
    )
    assert done.returncode == 0
    assert "warn customer_propensity v2 gives the same whatever is in orders_90d: " in done.stdout


@pytest.mark.long
def test_several_days_end_with_a_table_and_a_bad_one_is_named(command: Command) -> None:
    days = ("--from", DAYS[0], "--to", DAYS[2], "--engine", "local")
    first = command.run("run", PIPELINE, *days)
    assert first.returncode == 0, first.stderr
    assert [line.split()[:3] for line in first.stdout.splitlines()[2:5]] == [[day, "v1", "1"] for day in DAYS]
    assert f"Live: {DAYS[2]}-" in first.stdout
    assert f"{DAYS[0]} to {DAYS[2]}: {PIPELINE} v1 (approval 1), 3 day(s)." in first.stderr
    (path,) = command.root.glob(f"{PIPELINE}/user_features/date={DAYS[1]}/snapshot=*/part-00000.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    done = command.run("run", PIPELINE, *days, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["error"] == f"1 of 3 days failed: {DAYS[1]}."
    assert [bool(day["error"]) for day in found["days"]] == [False, True, False]


def test_days_that_make_no_sense_are_refused(command: Command) -> None:
    for arguments in ((), ("--from", DAYS[0]), ("--partition", DAYS[0], "--to", DAYS[1])):
        assert command.run("run", PIPELINE, *arguments).returncode == 2
    done = command.run("run", PIPELINE, "--from", DAYS[1], "--to", DAYS[0])
    assert "say the older day first" in done.stderr
    done = command.run("run", PIPELINE, "--partition", DAYS[0], "--as-of")
    assert "was approved for batch yet at 1998-06-28 00:00 UTC" in done.stderr
