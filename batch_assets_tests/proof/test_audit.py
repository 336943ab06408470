"""The value audit finds values that the proof cannot know to be wrong, as often as it says."""

import random
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import ProofFailed
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.score import score
from batch_assets.proof import audit
from batch_assets.proof.audit import Sample, compare, detection, draw, swapped_pair
from batch_assets.runs.evidence import ONE_IN_A_HUNDRED
from batch_assets_tests.small import DAY, Small, Working, rows, with_values

Make = Callable[..., Small]


def swap(working: Working, chunk: int, one: int, other: int) -> None:
    """Swap two rows' values in a committed file, its footer left as it was."""
    table = pq.read_table(working.path(chunk))
    probability = table["probability"].to_numpy().copy()
    probability[[one, other]] = probability[[other, one]]
    changed = table.set_column(1, "probability", pa.array(probability)).replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, working.path(chunk))


def audited(working: Working, groups: int, count: int) -> list[str]:
    """The faults that one audit finds."""
    scorer, commits = working.task.open(), working.commits()
    samples = [
        Sample(chunk, places, commits[chunk.number].environment, commits[chunk.number].batch_rows)
        for chunk, places in draw(working.run.frozen.snapshot, working.run.plan, groups, count)
    ]
    return [found.fault for found in (compare(scorer, sample) for sample in samples) if found.fault]


def test_what_was_committed_is_found_again_bit_for_bit(small: Small) -> None:
    freeze(small.config, small.storage, DAY, small.progress)
    found = score(small.opened(DAY), LocalEngine(), small.progress).manifest.audit
    assert (found.row_groups, found.rows, found.bit_equal) == (8, 320, 320)
    assert found.detects[ONE_IN_A_HUNDRED] == pytest.approx(1 - np.prod(1 - 20 / np.arange(2_000, 1_680, -1)), abs=1e-6)


@pytest.mark.parametrize(("chunk_rows", "groups"), [(2_000, 1), (1_000, 2), (1_990, 2), (300, 7), (20, 16)])
def test_as_many_rows_are_looked_at_however_few_or_small_the_row_groups_are(
    make_small: Make, chunk_rows: int, groups: int
) -> None:
    """A night of one row group had 40 of its rows looked at, which found one wrong row in a hundred with 0.33."""
    small = make_small(scoring={"chunk_rows": chunk_rows, "batch_size": 64})
    freeze(small.config, small.storage, DAY, small.progress)
    found = score(small.opened(DAY), LocalEngine(), small.progress).manifest.audit
    assert (found.row_groups, found.rows) == (groups, 320)
    assert found.detects[ONE_IN_A_HUNDRED] > 0.96


def test_of_a_small_night_every_row_is_looked_at(make_small: Make) -> None:
    small = make_small(rows(300))
    freeze(small.config, small.storage, DAY, small.progress)
    found = score(small.opened(DAY), LocalEngine(), small.progress).manifest.audit
    assert (found.rows, found.detects[ONE_IN_A_HUNDRED]) == (300, 1.0)


@pytest.mark.parametrize("above", [0.0, 1.5, 3.1])
def test_rows_that_a_rule_excludes_are_no_second_look(make_small: Make, above: float) -> None:
    """Half are excluded, nearly all, or all but a few: the more are drawn, and what is stated is of those compared."""
    rule = {"reason": "test", "column": "x", "op": "<", "value": above}
    small = make_small(rows(20_000), scoring={"chunk_rows": 20_000, "batch_size": 64, "exclude": [rule]})
    freeze(small.config, small.storage, DAY, small.progress)
    manifest = score(small.opened(DAY), LocalEngine(), small.progress).manifest
    assert min(299, manifest.scored) <= manifest.audit.rows <= 500
    outcome = judge(small.opened(DAY)).outcome("audit")
    assert outcome.passed
    assert outcome.observed == manifest.audit.detects[ONE_IN_A_HUNDRED]


def test_a_swapped_pair_passes_the_proof_and_not_the_audit(make_small: Make) -> None:
    working = Working(make_small(with_values(rows(2_000), "x", {3: None})))
    working.score_all()
    swap(working, 5, 10, 200)
    assert working.prove().rows == 2_000
    (fault,) = audited(working, 8, 256)
    assert fault.startswith("chunk-00005 says ")
    assert "scored again it is" in fault


def test_the_run_is_not_finished_then(make_small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    small = make_small()
    working = Working(small)
    working.score_all()
    swap(working, 5, 10, 200)
    everything = {"audit_groups": 8, "audit_rows": 256}
    small.config = small.config.model_copy(update={"scoring": small.config.scoring.model_copy(update=everything)})
    with pytest.raises(ProofFailed, match=r"The audit of .* chunk-00005 says"):
        score(small.opened(DAY), LocalEngine(), small.progress)
    assert not (working.path(0).parent / "_manifest").exists()


def test_it_finds_a_swapped_pair_as_often_as_it_states(make_small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 audits with a fixed seed, 4 of 8 row groups x 40 of 256 rows: P = 4/8 (1 - C(254,40)/C(256,40)) = 0.144."""
    working = Working(make_small())
    working.score_all()
    swap(working, 5, 10, 200)
    source = random.Random(1)
    monkeypatch.setattr(audit.random, "SystemRandom", lambda: source)
    snapshot, plan = working.run.frozen.snapshot, working.run.plan
    stated = detection(snapshot, plan, draw(snapshot, plan, 4, 40), 160, 2_000)["two rows of one row group swapped"]
    assert stated == pytest.approx(0.5 * swapped_pair(256, 40), abs=1e-2) == pytest.approx(0.1439, abs=1e-2)
    drawn = [draw(working.run.frozen.snapshot, working.run.plan, 4, 40) for _ in range(20_000)]
    hits = np.mean([any(chunk.number == 5 and {10, 200} & set(places) for chunk, places in one) for one in drawn])
    assert hits == pytest.approx(stated, abs=0.01)
    found = [bool(audited(working, 4, 40)) for _ in range(60)]
    assert 0 < sum(found) < 30


@pytest.mark.parametrize("chunk_rows", [64, 100, 256, 300, 5_000])
def test_row_groups_are_drawn_however_chunks_lie_on_them(make_small: Make, chunk_rows: int) -> None:
    small = make_small()
    Working(small)
    small.config = small.config.model_copy(
        update={"scoring": small.config.scoring.model_copy(update={"chunk_rows": chunk_rows})}
    )
    working = Working(small)
    drawn = draw(working.run.frozen.snapshot, working.run.plan, 10_000, 10_000)
    places = sorted(chunk.start + place for chunk, places in drawn for place in places)
    assert places == list(range(2_000))
