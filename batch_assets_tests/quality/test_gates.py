"""The catalogue of gates: what is judged is in it, and so is what people are told of it."""

import re
from pathlib import Path

import pytest

from batch_assets.config import PipelineConfig
from batch_assets.orchestration.asset_checks import build_checks
from batch_assets.quality.gates import GATES, gates_of
from batch_assets_tests.small import DAY, Small

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def test_the_readme_explains_each_gate_that_a_summary_shows() -> None:
    table = README.split("## What the summary means")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", table, flags=re.MULTILINE))
    explained = [name for name in rows if name in GATES]
    assert explained == [name for name in GATES if name not in ("full_scan", "sla")], "a pipeline asks for those two"
    for name in explained:
        said = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", rows[name])  # without links
        assert said.startswith(GATES[name].description)
        assert ("only warns" in said) is not GATES[name].blocks


def test_every_gate_is_a_check_of_dagster(small: Small) -> None:
    said = small.config.model_dump() | {"sla": {"published_by": "06:00"}}
    said["quality"]["expectations"]["full_scan"] = True
    specs = [spec for check in build_checks(PipelineConfig.model_validate(said)) for spec in check.check_specs]
    assert {spec.name for spec in specs} == set(GATES)
    for spec in specs:
        gate = GATES[spec.name]
        assert (spec.asset_key.path[-1], spec.blocking, spec.description) == (gate.asset, gate.blocks, gate.description)


def test_a_night_asks_every_gate_in_the_order_of_the_catalogue(small: Small) -> None:
    published = small.night()
    assert published.is_live
    from batch_assets.nightly.verdict import read_verdict

    verdict = read_verdict(small.storage, small.opened(DAY).folder)
    assert verdict is not None
    asked = [*gates_of("user_features", "full_scan"), *gates_of("predictions")]
    assert [outcome.name for outcome in verdict.outcomes] == [gate.name for gate in asked]
    assert all(outcome.asset == GATES[outcome.name].asset for outcome in verdict.outcomes)


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_one_that_only_warns_says_so(gate: object) -> None:
    described = getattr(gate, "description", "")
    assert getattr(gate, "blocks", None) is ("only warns" not in described) or getattr(gate, "name", "") == "sla"
