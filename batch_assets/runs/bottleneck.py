"""What limits a run: the workers' time by stage, and the stage to improve."""

from pydantic import BaseModel, ConfigDict

from batch_assets.runs.stage_timer import WAITING

STAGES = ("start-up", "read", "convert", "host-to-device", "forward", "postprocess", "write", WAITING, "lost")

_ADVICE = {
    "start-up": "score more rows per run, or keep workers warm",
    "read": "put the snapshot on a faster disk, or read fewer columns",
    "convert": "freeze float32 columns, which are copied as they are",
    "host-to-device": "use larger batches",
    "forward": "take a smaller model, a lower precision, the batch size that `batch-assets sweep` finds, or more workers",
    "postprocess": "have fewer classes or business rules",
    "write": "put the storage root on a faster disk, or make chunks larger",
    "lost": "find out what ends the workers, whose work is done again",
    WAITING: "make chunks smaller, so that every worker has some until the end, or use fewer workers",
}


class WorkTime(BaseModel):
    """Seconds of all workers by stage.

    Together they are the workers' lifetimes, but for what could not be seen; these are `wall_seconds` x `workers` unless
    workers were replaced or let go early. `received` are the bytes that the workers read over the network; `engine` says what
    they were, and why those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = 0
    wall_seconds: float = 0.0
    lifetimes: float = 0.0
    seconds: dict[str, float] = {}
    received: int = 0
    engine: str = ""

    def where(self) -> str:
        """What scored, and why that; and what came over the network for it, if something did."""
        return f"{self.engine}; {self.received / 1e6:,.1f} MB came over the network" if self.received else self.engine

    def sentence(self) -> str:
        """Which stage limits the run, and what would help."""
        total = sum(self.seconds.values())
        if not total:
            return "Nothing was scored now."
        stage = max(self.seconds, key=lambda name: self.seconds[name])
        return f"{self.seconds[stage] / total:.0%} of the workers' time is {stage}. To be faster: {_ADVICE[stage]}."
