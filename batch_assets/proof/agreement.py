"""Whether a lower precision may be used: a sample scored in both must agree within the stated bounds."""

import numpy as np
import numpy.typing as npt

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


def spearman(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Spearman's rank correlation of samples of shape (rows,), ties sharing their mean rank; 1 if there is nothing to rank."""
    ranks = [_ranks(values) for values in (a, b)]
    deviations = [rank - rank.mean() for rank in ranks] if len(a) else ranks
    scale = float(np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum()))
    return float((deviations[0] * deviations[1]).sum() / scale) if scale else 1.0


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles: npt.NDArray[np.float64] = ends - (counts - 1) / 2
    return middles[which]
