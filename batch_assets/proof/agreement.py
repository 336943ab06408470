"""Whether a lower precision may be used: a sample scored in both must agree within the stated bounds."""

import numpy as np

from batch_assets.quality.statistics import spearman
from batch_assets.runs.chunks import Chunk
from batch_assets.runs.evidence import Agreement
from batch_assets.scoring.forward import ForwardPass
from batch_assets.scoring.scorer import Scorer

SAMPLE_ROWS = 8_192


def agreement(scorer: Scorer, chunk: Chunk) -> Agreement:
    """Score a chunk's first rows in the task's precision and in float32."""
    task = scorer.task
    exact = task.load(task.settings.device, "float32")
    reference = ForwardPass(exact, task.head.width, task.settings.batch_rows, task.settings.max_failed)
    with scorer.staged(chunk, {}) as (staged, rows):
        scored = rows.rejects.scored.copy()
        scored[SAMPLE_ROWS:] = False
        logits = [run(staged, scored, chunk.name).logits for run in (scorer.forward_pass, reference)]
    ours, theirs = (task.head.records(one) for one in logits)
    both = np.isfinite(ours.score) & np.isfinite(theirs.score)
    if (np.isnan(ours.score) != np.isnan(theirs.score)).any():
        return Agreement(
            precision=task.settings.precision,
            rows=int(scored.sum()),
            largest_difference=1.0,
            rank_agreement=0.0,
            same_label=0.0,
        )
    a, b = ours.score[both].astype(np.float64), theirs.score[both].astype(np.float64)
    named = [field.name for field in ours.kind.fields if field.names]
    same = [(ours[name][both] == theirs[name][both]).mean() for name in named] if len(a) else []
    return Agreement(
        precision=task.settings.precision,
        rows=len(a),
        largest_difference=float(np.abs(a - b).max(initial=0.0)) / task.head.spread(theirs.score),
        rank_agreement=spearman(a, b),
        same_label=float(min(same, default=1.0)),
    )
