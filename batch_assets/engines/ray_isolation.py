"""A chunk that lost its workers, scored with nothing else in hand, until each row that kills or hangs a worker is found."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from batch_assets.engines.engine import EngineSettings, Item, Notice, Result
from batch_assets.engines.ray_hand import Hand, answer
from batch_assets.errors import EngineError, WorkerLost
from batch_assets.runs.chunks import Chunk
from batch_assets.scoring.scorer import Scorer
from batch_assets.scoring.settings import ScoringSettings

_FEW_CRASHING = 5
"""Rows of a chunk that may always kill: a share of a small chunk is less than one row."""

_MOST_CRASHING = 50
"""More may not, whatever their share is: to find one takes three workers, each of which loads the model."""


@dataclass(frozen=True)
class Isolation:
    """Works on one item at a time, each time with a worker of its own; `scoring` says which share of rows may kill."""

    hire: Callable[[], Hand]
    settings: EngineSettings
    scoring: ScoringSettings
    notice: Notice

    def work(self, work: Callable[[Scorer, Item], Result], item: Item, deaths: int) -> Result:
        """Do the work for an item that lost so many workers before; rows that kill or hang one are dead-lettered.

        Raises:
            EngineError: too many rows kill, or workers are lost and no row explains it.
        """
        crashing: tuple[int, ...] = ()
        while True:
            hand = self.hire()
            try:
                hand.settle_in(self.settings.stall_seconds, self.notice)
                reference = hand.actor.work.remote(work, item, *([crashing] if crashing else []))
                result: Result = hand.wait_for(reference, item, self.settings.stall_seconds, self.notice)
                return result
            except WorkerLost:
                item = again(item)
            finally:
                hand.end()
            chunk = item if isinstance(item, Chunk) else None
            row = self._crashing_row(chunk, crashing) if chunk else None
            if chunk and row is not None:
                crashing = (*crashing, row)
                self.notice(f"Row {row} of {item.name} kills or hangs the worker that scores it; it is dead-lettered.")
                self._require_few(chunk, crashing)
                continue
            deaths += 1
            if deaths >= self.settings.max_attempts:
                raise EngineError(
                    f"{item.name} was given up after {deaths} attempts; each time its worker was lost, and no single row "
                    "kills it: is there enough memory?"
                )

    def _require_few(self, chunk: Chunk, crashing: tuple[int, ...]) -> None:
        """Raise EngineError if more rows kill than may, or if it is not the rows: then any other one kills as well."""
        allowed = min(max(_FEW_CRASHING, int(chunk.rows * self.scoring.max_failed)), _MOST_CRASHING)
        if len(crashing) > allowed:
            raise EngineError(f"More than {allowed} rows of {chunk.name} kill the worker that scores them.")
        far = max(crashing) < chunk.rows - self.scoring.batch_rows
        if len(crashing) == _FEW_CRASHING and far and all(len(self._said(chunk, crashing, -1)) == 1 for _ in range(2)):
            raise EngineError(
                f"Rows {', '.join(map(str, crashing))} of {chunk.name} kill the worker that scores them, and so does the first "
                "one of its last batch: it is the model that kills, or what it runs on; does it run on a machine of this kind?"
            )

    def _crashing_row(self, chunk: Chunk, crashing: tuple[int, ...]) -> int | None:
        """The place of a row that kills its worker, found by asking what the worker was about when it died."""
        batches = self._said(chunk, crashing, None)
        rows = self._said(chunk, crashing, batches[-1]) if batches else []
        return rows[-1] if rows else None

    def _said(self, chunk: Chunk, crashing: tuple[int, ...], batch: int | None) -> list[int]:
        """What a probe was about until it lost its worker or came to a stand; nothing if it went through."""
        import ray

        hand, said = self.hire(), list[int]()
        try:
            probe = hand.actor.probe.options(num_returns="streaming", _generator_backpressure_num_objects=1)
            hand.settle_in(self.settings.stall_seconds, self.notice)
            answers = probe.remote(chunk, crashing, batch)
            while ray.wait([answers], timeout=self.settings.stall_seconds)[0]:
                said.append(answer(next(answers)))
            return said
        except StopIteration:
            return []
        except WorkerLost:
            return said
        finally:
            hand.end()


def again(item: Item) -> Item:
    """What is handed out once more; a chunk's commit says which attempt it was."""
    return replace(item, attempt=item.attempt + 1) if isinstance(item, Chunk) else item
