"""What a night will take, before it begins: a line through what the last nights took, with an interval; memory of a process.

Of a stage under way `throughput` says more, and needs no library; the SLA in `orchestration` goes by that once it is there.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import psutil

from batch_assets.nightly.night import Night
from batch_assets.nightly.timings import OF_WORKERS, STAGES, NightTook, Stage
from batch_assets.quality.statistics import Interval

LAST_NIGHTS = 14
"""From how many nights before a night is estimated."""

CONFIDENCE = 0.9
"""In this share of nights, what a night takes lies within the interval that was said before."""

_FEWEST, _APART = 3, 2.0
_USUAL_SPREAD, _USUAL_NIGHTS = 0.15, 2
_ROUNDS = 4


@dataclass(frozen=True)
class Line:
    """A stage of `rows` rows takes fixed + per_row * rows, give or take a factor; `line_through` says how it is found.

    `of` are the least and the most rows that it was seen with. `is_known` says whether what is fixed could be told from what
    grows. `spread` is the relative spread of one night and `freedom` its degrees of freedom; `inverse` is (XᵀWX)⁻¹ of the
    coefficients in `columns` (of 1 and rows).
    """

    fixed: float
    per_row: float
    of: tuple[int, int]
    is_known: bool
    spread: float
    freedom: int
    inverse: npt.NDArray[np.float64]
    columns: tuple[int, ...]

    def at(self, rows: int) -> Interval:
        """What so many rows will take, within 90 %.

        The prediction interval of a weighted regression for one more night (N. Draper, H. Smith, "Applied Regression
        Analysis", 3rd ed. 1998, sections 3.1 and 9.2): y0 (1 + d) is the upper bound, with d = t s sqrt(1 + x0ᵀ (XᵀWX)⁻¹ x0 /
        y0²) and t the 95 % quantile of Student's distribution. The lower one is y0 exp(-d), which is the same for a small d and
        never below zero. Where it is not known what is fixed, the interval also holds both extremes: that all of it is, and
        that nothing is.
        """
        from scipy.special import stdtrit

        value = self.fixed + self.per_row * rows
        if value <= 0:
            return Interval(value=0.0, low=0.0, high=0.0)
        place = np.asarray([1.0, float(rows)])[list(self.columns)] / value
        leverage = float(place @ self.inverse @ place)
        doubt = float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2)) * self.spread * math.sqrt(1 + leverage)
        ends = [value] if self.is_known else [value, *(self.fixed + self.per_row * one for one in self.of)]
        return Interval(value=value, low=min(ends) * math.exp(-doubt), high=max(ends) * (1 + doubt))


def line_through(points: Sequence[tuple[int, float]], *, grows: bool = True) -> Line | None:
    """The line through (rows, amount) of some nights, a flat one if amounts do not grow; None if no night took anything.

    The noise of a long night is longer, so errors count relative to the line: weighted least squares with weights 1/y², the y
    of the line itself, in a few rounds that begin with the measured ones (R. Carroll, D. Ruppert, "Transformation and Weighting
    in Regression", 1988, section 2.2). Neither coefficient is negative (C. Lawson, R. Hanson, "Solving Least Squares Problems",
    1974, chapter 23); one that is zero for that reason is as uncertain as any other. What is fixed is told from what grows only
    by three nights of which the largest is at least twice the smallest; else amounts are taken as proportional.

    The spread is s² = (n0 s0² + Σ r²) / (n0 + n - p), of n relative errors r and p coefficients. It begins with what is usual,
    s0 = 15 %, as if n0 = 2 nights had shown it: a few nights that happen to agree do not make anything certain (A. Gelman et
    al., "Bayesian Data Analysis", 3rd ed. 2013, section 14.8).
    """
    from scipy.optimize import nnls

    seen = [(rows, amount) for rows, amount in points if rows > 0 and amount > 0]
    if not seen:
        return None
    rows, amounts = np.asarray(seen, dtype=np.float64).T
    known = not grows or (len(seen) >= _FEWEST and rows.max() >= _APART * rows.min())
    terms = np.stack([np.full_like(rows, known), rows * grows], axis=1)
    on_line = amounts
    for _ in range(_ROUNDS):
        found, _ = nnls(terms / on_line[:, None], amounts / on_line)
        on_line = terms @ found
    columns = tuple(number for number in (0, 1) if terms[:, number].any())
    scaled = (terms / on_line[:, None])[:, columns]
    errors = amounts / on_line - 1
    freedom = _USUAL_NIGHTS + len(seen) - len(columns)
    spread = math.sqrt((_USUAL_NIGHTS * _USUAL_SPREAD**2 + float(errors @ errors)) / freedom)
    return Line(
        fixed=float(found[0]),
        per_row=float(found[1]),
        of=(int(rows.min()), int(rows.max())),
        is_known=known,
        spread=spread,
        freedom=freedom,
        inverse=np.linalg.inv(scaled.T @ scaled),
        columns=columns,
    )


def stages_take(
    nights: Sequence[NightTook], rows: int, workers: int | None = None, chunk_rows: int = 1
) -> dict[Stage, Interval]:
    """Seconds of each stage that some nights measured, for so many rows and workers (by default as many as the last night had).

    What scoring takes is shared by the workers, by whole chunks; everything else is not, and becomes the longest part when they
    are many (G. Amdahl, "Validity of the single processor approach to achieving large scale computing capabilities", 1967). It
    goes by the nights that the last night's model scored.
    """
    if not nights:
        return {}
    lines = {stage: line_through(list(_points(nights, stage)), grows=stage != "start-up") for stage in STAGES}
    found = {stage: line.at(rows) for stage, line in lines.items() if line is not None}
    if "scoring" in found:
        found["scoring"] = found["scoring"].times(1 / _at_once(rows, workers or nights[-1].workers, chunk_rows))
    return found


def _points(nights: Sequence[NightTook], stage: Stage) -> Iterable[tuple[int, float]]:
    """Rows and seconds of a stage; of scoring, the seconds of all workers."""
    for night in nights:
        if stage in night.seconds and (stage != "scoring" or night.model == nights[-1].model):
            yield night.rows, night.seconds[stage] * (night.workers if stage == "scoring" else 1)


def _at_once(rows: int, workers: int, chunk_rows: int) -> float:
    """How many workers are at work on average: while the last chunks are scored, some have none."""
    chunks = max(math.ceil(rows / chunk_rows), 1)
    return chunks / math.ceil(chunks / workers)


def added(parts: Iterable[Interval]) -> Interval:
    """The sum of stages. Their bounds are added, too: on a night on which one is slow, the machine is, and so are the others.

    Were their errors independent, the interval would be narrower; as they are not known to be, it holds at least 90 %.
    """
    several = list(parts)
    return Interval(**{name: sum(getattr(one, name) for one in several) for name in ("value", "low", "high")})


def scoring_minutes(nights: Sequence[NightTook], days: Sequence[int], slower: float = 1.0) -> Interval | None:
    """How long the rows of some days take from start-up to proof, one day after the other; None if no night says it.

    `slower` is by which factor the model may be slower than that of the nights.
    """
    if not nights:
        return None
    found = added(part for rows in days for stage, part in stages_take(nights, rows).items() if stage in OF_WORKERS)
    return Interval(value=found.value, low=found.low, high=found.high * slower).times(1 / 60)


def memory(night: Night) -> Interval:
    """Bytes of this process with the model in it, and with the largest chunk as table and matrix beside it, read ahead once."""
    now = float(psutil.Process().memory_info().rss)
    width = 4 * (len(night.model.card.contract.columns) + 2)
    chunk = float(max((one.rows for one in night.plan), default=0) * width)
    return Interval(value=now + 2 * chunk, low=now, high=now + 4 * chunk)
