"""What waits to be handed out: chunks of a file go to the worker that has the file open.

Whoever opens a Parquet file reads its footer, which of a bucket is a request and some hundred kilobytes. So a worker gets the
next chunk of the file that it was given last; then of one that nobody was given yet; then of that of which most are waiting.
"""

from collections import deque
from collections.abc import Iterable
from typing import Generic

from batch_assets.engines.engine import Item


class Handout(Generic[Item]):
    """Items that wait, by their file; those that are about no file are one group."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._waiting: dict[int | None, deque[Item]] = {}
        self._begun: set[int | None] = set()
        self._length = 0
        for item in items:
            self.put(item)

    def __len__(self) -> int:
        return self._length

    def put(self, item: Item) -> None:
        """Let an item wait."""
        self._waiting.setdefault(file_of(item), deque()).append(item)
        self._length += 1

    def take(self, last: int | None) -> Item:
        """The next item for a worker to which one of the file `last` was given before it. Raises IndexError if none waits."""
        file = last if last in self._waiting else self._another()
        waiting = self._waiting[file]
        item = waiting.popleft()
        self._length -= 1
        self._begun.add(file)
        if not waiting:
            del self._waiting[file]
        return item

    def _another(self) -> int | None:
        untouched = next((file for file in self._waiting if file not in self._begun), None)
        if untouched is not None:
            return untouched
        if not self._waiting:
            raise IndexError("nothing waits")
        return max(self._waiting, key=lambda file: len(self._waiting[file]))


def file_of(item: object) -> int | None:
    """The number of the snapshot file that an item is about: of a chunk, or of a sample of one."""
    return getattr(getattr(item, "chunk", item), "file", None)
