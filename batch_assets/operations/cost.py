"""What the workers of a night cost: for as long as they are there, and on machines that may be taken away."""

from pydantic import BaseModel, ConfigDict

from batch_assets.engines.engine import IN_HAND, Price
from batch_assets.errors import ConfigError
from batch_assets.quality.statistics import Interval


class Spot(BaseModel):
    """A night's workers on spot: what they cost, how many are taken away on average, and how much longer the night is for it.

    `lost_seconds` are a worker's, for each time that one is taken away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cost: Interval
    preemptions: float
    lost_seconds: float
    extra_seconds: Interval


class Cost(BaseModel):
    """What a night's workers cost on demand, and on spot where the price says that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str
    on_demand: Interval
    spot: Spot | None = None


def lost_seconds(chunk_seconds: float, replacement_seconds: float) -> float:
    """What it costs that one worker is taken away, in its own seconds.

    Up to `IN_HAND` chunks are in its hand, each of them half done on average, as half an interval is lost between two
    checkpoints (J. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006); then nobody
    works in its place until there is another.
    """
    return IN_HAND / 2 * chunk_seconds + replacement_seconds


def longer_on_spot(price: Price, chunk_seconds: float) -> float:
    """By which factor scoring is longer on spot: 1 / (1 - λ L), where λ is `preemptions_per_hour` and L what each one costs.

    In T hours W workers are taken away λ W T times, each time for L: so W T0 = W T (1 - λ L), where T0 hours are enough on
    demand. It is the first order of the formula that `lost_seconds` names. Raises ConfigError where λ L is 1 or more.
    """
    lost = (price.preemptions_per_hour or 0.0) / 3600 * lost_seconds(chunk_seconds, price.replacement_seconds)
    if lost >= 1:
        raise ConfigError(
            f"A worker on spot that is taken away {price.preemptions_per_hour:g} times an hour, and loses "
            f"{lost_seconds(chunk_seconds, price.replacement_seconds):,.0f} s each time, is never done: take smaller chunks "
            "(scoring.chunk_rows), or machines on demand."
        )
    return 1 / (1 - lost)


def cost(price: Price, there: Interval, scoring: Interval, workers: int, share: float, chunk_seconds: float) -> Cost:
    """What a night costs.

    Args:
        price: of the pipeline's workers.
        there: seconds for which workers are there on demand: start-up, scoring and proof.
        scoring: the seconds of these in which they score.
        workers: how many.
        share: how many that is of those that the price is of.
        chunk_seconds: of one worker for one chunk.

    Raises:
        ConfigError: on spot the night would never be done.
    """
    on_demand = there.times(price.per_hour * share / 3600)
    if price.spot_per_hour is None:
        return Cost(currency=price.currency, on_demand=on_demand)
    extra = scoring.times(longer_on_spot(price, chunk_seconds) - 1)
    longer = Interval(value=there.value + extra.value, low=there.low + extra.low, high=there.high + extra.high)
    spot = Spot(
        cost=longer.times(price.spot_per_hour * share / 3600),
        preemptions=(price.preemptions_per_hour or 0.0) * workers * (scoring.value + extra.value) / 3600,
        lost_seconds=lost_seconds(chunk_seconds, price.replacement_seconds),
        extra_seconds=extra,
    )
    return Cost(currency=price.currency, on_demand=on_demand, spot=spot)
