"""Who is told how far a verb has come: a terminal, Dagster's log, or nobody."""

from typing import Protocol


class Progress(Protocol):
    """Listens to a verb at work."""

    def say(self, message: str) -> None:
        """Something that the person who waits should know now."""

    def at(self, stage: str, done: int, total: int | None) -> None:
        """How far a stage has come, in its own units; `total` is None while nobody can know it."""
