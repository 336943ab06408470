"""What the workers of a night cost: for as long as they are there, and on machines that may be taken away."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Preempted:
    """Workers on spot that are taken away `rate` times a second each, and what each of these loses, in seconds of one worker.

    `work` is what was not committed: up to `IN_HAND` chunks are in its hand, each of them half done on average, as half an
    interval is lost between two checkpoints (J. Daly, "A higher order estimate of the optimum checkpoint interval for restart
    dumps", 2006). `away` is how long nobody works in its place then.
    """

    rate: float
    work: float
    away: float

    @classmethod
    def of(cls, price: Price, chunk_seconds: float) -> "Preempted":
        """What a price says, of chunks that take a worker so long.

        Raises:
            ConfigError: more is lost than is done.
        """
        found = cls((price.preemptions_per_hour or 0.0) / 3600, IN_HAND / 2 * chunk_seconds, price.replacement_seconds)
        if found.rate * found.work >= 1:
            raise ConfigError(
                f"A worker on spot that is taken away {price.preemptions_per_hour:g} times an hour, and loses "
                f"{found.work:,.0f} s of work each time, is never done: take smaller chunks (scoring.chunk_rows), or machines "
                "on demand."
            )
        return found

    @property
    def at_work(self) -> float:
        """By which factor workers are longer at work: 1 / (1 - λ l), as U = U0 + λ U l for the l that each loss repeats."""
        return 1 / (1 - self.rate * self.work)

    @property
    def longer(self) -> float:
        """By which factor scoring is longer: (1 + λ r) / (1 - λ l), as each of the λ U losses leaves a place empty for r."""
        return (1 + self.rate * self.away) * self.at_work


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
    taken = Preempted.of(price, chunk_seconds)
    extra = scoring.times(taken.longer - 1)
    longer = Interval(value=there.value + extra.value, low=there.low + extra.low, high=there.high + extra.high)
    spot = Spot(
        cost=longer.times(price.spot_per_hour * share / 3600),
        preemptions=taken.rate * workers * scoring.value * taken.at_work,
        lost_seconds=taken.work + taken.away,
        extra_seconds=extra,
    )
    return Cost(currency=price.currency, on_demand=on_demand, spot=spot)
