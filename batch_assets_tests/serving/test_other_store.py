"""A package outside of this repository adds a store, and nothing else here knows of it."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typing_extensions import override

from batch_assets.errors import NoPrediction, ReleaseBroken
from batch_assets.nightly.publish import published_matches
from batch_assets.serving.reader import Reader
from batch_assets.serving.store import STORES, Store
from batch_assets.storage import LocalStorage
from batch_assets_tests.nights import DAYS, SETTINGS, folders, night, probability, pruned
from batch_assets_tests.serving.store_behaviour import BINARY, KEYS, StoreBehaviour, records
from batch_assets_tests.small import Small

SOURCE = Path(__file__).with_name("shelf.py")


@pytest.fixture(autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package `their_shelf`, as it lies beside others once it is installed."""
    site = tmp_path_factory.mktemp("site")
    (site / "their_shelf").mkdir()
    (site / "their_shelf" / "__init__.py").write_text(SOURCE.read_text())
    (site / "their_shelf-1.0.dist-info").mkdir()
    (site / "their_shelf-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: their-shelf\nVersion: 1.0\n")
    (site / "their_shelf-1.0.dist-info" / "entry_points.txt").write_text("[batch_assets.stores]\nshelf = their_shelf:Shelf\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield site
    sys.modules.pop("their_shelf", None)


class TestShelf(StoreBehaviour):
    @override
    def store(self, folder: Path) -> Store:
        return STORES.adapter("shelf").model_validate({})

    def test_a_page_that_was_changed_is_never_an_answer(self, storage: LocalStorage, tmp_path: Path) -> None:
        keys = KEYS["int32"]
        release = self.built(storage, tmp_path, keys, records(BINARY, len(keys)), batch=1_000)
        path = storage.local_path(f"{release.folder}/{release.built['folder']}/release.parquet")
        data = bytearray(path.read_bytes())
        data[100:110] = b"0123456789"
        path.chmod(0o600)
        path.write_bytes(data)
        with pytest.raises(ReleaseBroken, match=r"release\.parquet cannot be read"):
            release.store.open(storage, release).get(7)


def test_it_is_a_file_of_less_than_sixty_lines() -> None:
    assert len(SOURCE.read_text().splitlines()) < 60


def test_nights_of_it_are_published_looked_up_and_pruned(make_small: Callable[..., Small]) -> None:
    small = make_small(stores=[{"kind": "shelf", "group_rows": 500}], **SETTINGS)
    for day in DAYS:
        assert night(small, day).is_live
    assert published_matches(small.opened(DAYS[-1])).passed
    reader = Reader.open("small", small.storage)
    assert reader.lookup("42").record == {"user": 42, **reader.lookup(42).record}
    assert reader.lookup(42).record["partition"] == DAYS[-1]
    with pytest.raises(NoPrediction, match="no prediction for key 2001"):
        reader.lookup(2_001)
    before = probability(small.storage, 42)
    (file,) = Path(small.storage.root).glob(f"small/serving/releases/{DAYS[-1]}-*/shelf-*/release.parquet")
    assert pq.read_table(file, filters=[("key", "==", 42)])["probability"].to_pylist() == [before]
    assert pruned(small).counts["releases"] == 2
    assert folders(small.storage.root)["releases"] == set(DAYS[2:])
    assert probability(small.storage, 42) == before
