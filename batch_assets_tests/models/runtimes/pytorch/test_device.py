"""What of the GPU's code needs no GPU."""

from collections.abc import Iterator
from typing import Literal

import pytest
import torch

from batch_assets.models.runtimes.pytorch.device import autocast, one_ahead


class TestOneAhead:
    def test_each_is_handed_out_when_the_next_one_was_begun(self) -> None:
        begun: list[int] = []

        def begin(number: int, item: str) -> str:
            begun.append(number)
            return item.upper()

        assert [(one, len(begun)) for one in one_ahead(begin, "abcd")] == [("A", 2), ("B", 3), ("C", 4), ("D", 4)]
        assert begun == [0, 1, 2, 3]

    @pytest.mark.parametrize("items", ["", "a"])
    def test_few(self, items: str) -> None:
        assert list(one_ahead(lambda _, item: item, items)) == list(items)

    def test_an_error_comes_in_its_turn(self) -> None:
        """What was begun before is not blamed for it: a batch of one row would be dead-lettered for the next one's row."""

        def begin(_: int, item: str) -> str:
            if item == "c":
                raise ValueError(item)
            return item

        handed: list[str] = []
        with pytest.raises(ValueError, match="c"):
            handed.extend(one_ahead(begin, "abcd"))
        assert handed == ["a", "b"]


@pytest.fixture
def flags() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("flags")
def test_float32_is_float32_in_convolutions_too() -> None:
    precisions: tuple[tuple[Literal["float32", "tf32"], bool], ...] = (("float32", False), ("tf32", True), ("float32", False))
    for precision, tf32 in precisions:
        with autocast("cuda", precision):
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (tf32, tf32)
