"""Who is told how far a verb has come: a terminal, Dagster's log, or nobody."""

from typing import Protocol


class Watch(Protocol):
    """Listens to a verb at work."""

    def say(self, message: str) -> None:
        """Something that the person who waits should know now."""

    def progress(self, done: int, total: int) -> None:
        """Rows done so far, of how many."""
