"""What a pass that raises leaves behind: no memory that the next one needs, and perhaps no device."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from batch_assets.errors import DeviceLost
from batch_assets_tests.faulty import Faulty
from batch_assets_tests.small import Small, Working, rows, with_values

Make = Callable[..., Small]
POISON = 77.0


class Activations:
    """What a model holds while it works."""


def test_a_pass_that_raised_holds_nothing_when_the_next_one_begins(make_small: Make) -> None:
    """The error's traceback would keep its tensors: the halves of a batch that did not fit would not fit either."""
    working = Working(make_small(rows(256), scoring={"chunk_rows": 256, "batch_size": 256}))
    scorer = working.task.open()
    real, held = scorer.predictor.forward, list[weakref.ref[Activations]]()

    def greedy(batches: Any) -> Iterator[Any]:
        for batch in batches:
            assert not any(one() for one in held)
            activations = Activations()
            held.append(weakref.ref(activations))
            if len(held) == 1:
                raise ValueError("once")  # from here on each pass is one of those that look for poison
            if batch[0].shape[1] > 64:
                raise MemoryError
            del activations
            yield from real([batch])

    scorer.predictor.forward = greedy  # type: ignore[method-assign]
    with scorer.staged(working.run.plan[0], {}) as (staged, marked):
        passed = scorer.forward_pass(staged, marked.rejects.scored, "chunk-00000")
    assert (passed.smallest, passed.raised) == (64, {})
    assert np.isfinite(passed.logits).all()


def test_a_lost_device_ends_the_work_and_is_no_matter_of_rows(make_small: Make) -> None:
    working = Working(make_small(with_values(rows(600), "x", {300: POISON})))
    scorer = replace(working.task, load=Faulty(working.task.load, "lose the device", POISON)).open()
    assert scorer.score(working.run.plan[0]).scored == 256
    said = r"After a pass over chunk-00001 .* \(RuntimeError: CUDA error: device-side assert triggered\)"
    with pytest.raises(DeviceLost, match=said):
        scorer.score(working.run.plan[1])
    with pytest.raises(DeviceLost):
        list(scorer.probe(working.run.plan[2]))
    assert set(working.commits()) == {0}
