"""A lower precision is used only if it agrees with float32, and is another run."""

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import PrecisionRejected
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.score import score
from batch_assets_tests.small import DAY, Small, rows, with_values

Make = Callable[..., Small]


def in_precision(make_small: Make, **settings: object) -> Small:
    small = make_small(scoring={"chunk_rows": 256, "batch_size": 64, **settings})
    freeze(small.config, small.storage, DAY, small.progress)
    return small


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_one_that_agrees_is_used_and_says_how_well(make_small: Make, precision: str) -> None:
    small = in_precision(make_small, precision=precision)
    manifest = score(small.opened(DAY), LocalEngine(), small.progress).manifest
    assert manifest.agreement is not None
    assert manifest.agreement.precision == precision
    assert manifest.agreement.rows == 256
    assert 0 < manifest.agreement.largest_difference <= 0.01
    assert 0.999 <= manifest.agreement.rank_agreement < 1
    assert manifest.environments[0]["precision"] == precision


def test_one_that_does_not_agree_is_refused_before_a_chunk_is_scored(make_small: Make) -> None:
    small = in_precision(make_small, precision="bfloat16", max_difference=1e-6)
    with pytest.raises(PrecisionRejected, match=r"bfloat16 differs from float32 by up to 0\.00.* allowed are 1e-06"):
        score(small.opened(DAY), LocalEngine(), small.progress)
    assert not list(small.storage.local_path("small/predictions").glob("*/*/chunk-*"))


def test_a_chunk_without_a_row_to_score_is_no_evidence(make_small: Make) -> None:
    small = make_small(
        with_values(rows(600), "x", dict.fromkeys(range(256))),
        scoring={"chunk_rows": 256, "batch_size": 64, "precision": "bfloat16", "max_difference": 1e-6},
    )
    freeze(small.config, small.storage, DAY, small.progress)
    with pytest.raises(PrecisionRejected):
        score(small.opened(DAY), LocalEngine(), small.progress)


def test_it_is_part_of_the_run_id_and_its_bounds_are_not(make_small: Make) -> None:
    ids = []
    for settings in ({}, {"precision": "bfloat16"}, {"precision": "bfloat16", "max_difference": 0.5}):
        small = in_precision(make_small, **settings)
        ids.append(small.opened(DAY).run_id)
    assert ids[0] != ids[1] == ids[2]


def test_float32_needs_no_agreement(make_small: Make) -> None:
    small = in_precision(make_small)
    assert score(small.opened(DAY), LocalEngine(), small.progress).manifest.agreement is None


def test_tf32_is_for_gpus(make_small: Make) -> None:
    with pytest.raises(ValidationError, match="tf32 is a precision of GPUs"):
        make_small(scoring={"precision": "tf32"})
