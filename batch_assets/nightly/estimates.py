"""What a night will take, before it begins: lines through what the last nights took, with an interval; memory of a process.

Of a stage under way `throughput` says more, and needs no library; the SLA in `orchestration` goes by that once it is there.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import psutil

from batch_assets.nightly.night import Night
from batch_assets.nightly.timings import OF_WORKERS, STAGES, NightTook, Stage
from batch_assets.quality.statistics import Interval
from batch_assets.runs.chunks import count_chunks

Floats = npt.NDArray[np.float64]

LAST_NIGHTS = 14
"""From how many nights before a night is estimated."""

CONFIDENCE = 0.9
"""In this share of nights, what a night takes lies within the interval that was said before."""

_FEWEST, _APART = 3, 2.0
_USUAL_SPREAD, _USUAL_NIGHTS = 0.15, 2
_SPREAD_OF_MEMORY = 0.03
"""The same night takes nearly the same memory again, whatever else the machine is at."""

_ROUNDS = 4
_NEAR = math.log(2)


def amount_at(
    points: Sequence[tuple[int, float]], rows: int, *, grows: bool = True, spread: float = _USUAL_SPREAD
) -> Interval | None:
    """What so many rows will take, within 90 %, by (rows, amount) of some nights; None if no night took anything.

    It is the point of a line, fixed + per_row * rows, or of a flat one if amounts do not grow. Nights of about so many rows say
    most of it, as no stage is one line over all sizes (a sort that goes to the disk is slower by the row): a night of twice the
    rows counts exp(-1/2), as in locally weighted regression (W. Cleveland, "Robust Locally Weighted Regression and Smoothing
    Scatterplots", 1979). Beyond the largest and the smallest night the line goes on as it is there. What is fixed is told from
    what grows only by three nights of which the largest is at least twice the smallest. Else amounts are taken as
    proportional, and the interval also holds both extremes: that all of it is fixed, and that nothing is.

    The interval is that of a weighted regression for one more night (N. Draper, H. Smith, "Applied Regression Analysis", 3rd
    ed. 1998, sections 3.1 and 9.2): y0 (1 + d) is the upper bound, with d = t s sqrt(1 + x0ᵀ (XᵀWX)⁻¹ x0 / y0²) and t the 95 %
    quantile of Student's distribution. The lower one is y0 exp(-d), the same for a small d and never below zero.

    The spread is s² = (n0 s0² + Σ k r²) / (n0 + Σ k - p), of relative errors r of nights that count k, and p coefficients. It
    begins with s0, the usual `spread`, as if n0 = 2 nights had shown it: a few nights that happen to agree do not make anything
    certain (A. Gelman et al., "Bayesian Data Analysis", 3rd ed. 2013, section 14.8).
    """
    seen = np.asarray([(size, amount) for size, amount in points if size > 0 and amount > 0], dtype=np.float64)
    if not len(seen):
        return None
    sizes, amounts = seen.T
    known = not grows or _told_apart(sizes)
    wanted = np.asarray([known, grows])
    terms = np.stack([np.ones_like(sizes), sizes], axis=1)[:, wanted]
    counts = _nearness(sizes, rows) if grows else np.ones_like(sizes)
    line = _line(terms, amounts, counts)
    on_line, place = terms @ line, np.asarray([1.0, float(rows)])[wanted]
    value = float(place @ line)
    if value <= 0:
        return Interval(value=0.0, low=0.0, high=0.0)
    scaled = terms * (np.sqrt(counts) / on_line)[:, None]
    leverage = float(place @ np.linalg.pinv(scaled.T @ scaled, hermitian=True) @ place) / value**2
    freedom = _USUAL_NIGHTS + float(counts.sum()) - len(line)
    errors = float(counts @ (amounts / on_line - 1) ** 2)
    doubt = _quantile(freedom) * math.sqrt((_USUAL_NIGHTS * spread**2 + errors) / freedom * (1 + leverage))
    ends = [value] if known else [value, float(on_line.min()), float(on_line.max())]
    return Interval(value=value, low=min(ends) * math.exp(-doubt), high=max(ends) * (1 + doubt))


def _told_apart(sizes: Floats) -> bool:
    """Whether nights of so many rows tell what is fixed from what grows."""
    return len(sizes) >= _FEWEST and bool(sizes.max() >= _APART * sizes.min())


def _nearness(sizes: Floats, rows: int) -> Floats:
    """How much each night counts for one of so many rows: the nearest one 1."""
    center = min(max(float(rows), float(sizes.min())), float(sizes.max()))
    far = (np.log(sizes / center) / _NEAR) ** 2 / 2
    found: Floats = np.exp(far.min() - far)
    return found


def _line(terms: Floats, amounts: Floats, counts: Floats) -> Floats:
    """The coefficients of terms of shape (nights, coefficients), none of them negative.

    The noise of a long night is longer, so errors count relative to the line: weighted least squares with weights 1/y², the y
    of the line itself, in a few rounds that begin with the measured ones (R. Carroll, D. Ruppert, "Transformation and Weighting
    in Regression", 1988, section 2.2; C. Lawson, R. Hanson, "Solving Least Squares Problems", 1974, chapter 23).
    """
    from scipy.optimize import nnls

    on_line = amounts
    for _ in range(_ROUNDS):
        weights = np.sqrt(counts) / on_line
        found: Floats = nnls(terms * weights[:, None], amounts * weights)[0]
        on_line = np.maximum(terms @ found, amounts.min() / 100)
    return found


def _quantile(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def stages_take(nights: Sequence[NightTook], rows: int, chunks: int, workers: int | None = None) -> dict[Stage, Interval]:
    """Seconds of each stage that some nights measured, for so many rows in so many chunks.

    Workers are as many as the last night had, by default. They share what scoring takes, by whole chunks, in a plan as in the
    nights that it is made from; everything else they do not share, and it becomes the longest part when they are many (G.
    Amdahl, "Validity of the single processor approach to achieving large scale computing capabilities", 1967). Scoring goes by
    the nights that the last night's model scored.
    """
    if not nights:
        return {}
    stages = {stage: amount_at(list(_points(nights, stage)), rows, grows=stage != "start-up") for stage in STAGES}
    found = {stage: amount for stage, amount in stages.items() if amount is not None}
    if "scoring" in found:
        found["scoring"] = found["scoring"].times(1 / _with_a_chunk(chunks, workers or nights[-1].workers))
    return found


def _points(nights: Sequence[NightTook], stage: Stage) -> Iterable[tuple[int, float]]:
    """Rows and seconds of a stage; of scoring, the seconds of all workers while they had a chunk."""
    for night in nights:
        if stage != "scoring" and stage in night.seconds:
            yield night.rows, night.seconds[stage]
        elif stage in night.seconds and night.model == nights[-1].model:
            yield night.rows, night.seconds[stage] * _with_a_chunk(night.chunks, night.workers)


def _with_a_chunk(chunks: int, workers: int) -> float:
    """How many workers have a chunk on average: while the last ones are scored, some have none."""
    return chunks / math.ceil(chunks / workers) if chunks else 1.0


def added(parts: Iterable[Interval]) -> Interval:
    """The sum of stages. Their bounds are added, too: on a night on which one is slow, the machine is, and so are the others.

    Were their errors independent, the interval would be narrower; as they are not known to be, it holds at least 90 %.
    """
    several = list(parts)
    return Interval(**{name: sum(getattr(one, name) for one in several) for name in ("value", "low", "high")})


def scoring_minutes(nights: Sequence[NightTook], days: Sequence[int], chunk_rows: int, slower: float = 1.0) -> Interval | None:
    """How long the rows of some days take from start-up to proof, one day after the other; None if no night says it.

    `slower` is by which factor the model may be slower than that of the nights.
    """
    if not nights:
        return None
    taken = (stages_take(nights, rows, count_chunks(rows, chunk_rows)) for rows in days)
    found = added(part for stages in taken for stage, part in stages.items() if stage in OF_WORKERS)
    return Interval(value=found.value, low=found.low, high=found.high * slower).times(1 / 60)


def driver_peak(nights: Sequence[NightTook], held: int | None, rows: int) -> Interval | None:
    """Bytes of its own that the process which drives has at most, of so many rows, by what it had in some nights.

    Freezing features takes more by the row up to the bytes that a source holds; what is more goes to the disk. Any other stage
    has a chunk in hand, whatever follows it: it grows if nights of several sizes say so.
    """
    by_stage = list[Interval]()
    for stage in STAGES:
        seen = [(night.rows, float(night.peaks[stage])) for night in nights if stage in night.peaks]
        grows = stage == "features" or _told_apart(np.asarray([size for size, _ in seen], dtype=np.float64))
        found = amount_at(seen, rows, grows=grows, spread=_SPREAD_OF_MEMORY)
        if found and stage == "features" and held is not None:
            most = held + min(peak for _, peak in seen)
            found = found.times(most / found.value) if found.value > most else found
        by_stage += [found] if found else []
    if not by_stage:
        return None
    return Interval(**{name: max(getattr(one, name) for one in by_stage) for name in ("value", "low", "high")})


def memory(night: Night) -> Interval:
    """Bytes of this process with the model in it, and with the largest chunk as table and matrix beside it, read ahead once."""
    now = float(psutil.Process().memory_info().rss)
    width = 4 * (len(night.model.card.contract.columns) + 2)
    chunk = float(max((one.rows for one in night.plan), default=0) * width)
    return Interval(value=now + 2 * chunk, low=now, high=now + 4 * chunk)
