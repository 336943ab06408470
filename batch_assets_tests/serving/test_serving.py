import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import CommitBroken, NoPrediction, NotPublishable, ReleaseBroken
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import Published, publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.serving import arrow_file
from batch_assets.serving.live import current_log
from batch_assets.serving.reader import Reader
from batch_assets_tests.small import DAY, Small, rows, small_model

Make = Callable[..., Small]


NEVER = {"psi": 100, "ks": 100, "js": 100}


def data_file(small: Small, published: Published) -> Path:
    """The file of a release; it can be written to from now on."""
    path = small.storage.local_path(f"{published.release.folder}/{published.release.built['folder']}/release.arrow")
    path.chmod(0o600)
    return path


def description(small: Small, published: Published) -> Path:
    return small.storage.local_path(published.release.description)


class TestRelease:
    def test_a_published_key_is_found_with_its_lineage(self, small: Small) -> None:
        published = small.night()
        answer = Reader.open("small", small.storage).lookup("42")
        assert answer.record["user"] == 42
        assert answer.record["partition"] == DAY
        assert answer.record["model_version"] == "v1"
        assert answer.lineage["release"] == published.release.name
        assert answer.lineage["model_sha256"] == small.model.card.model_sha256

    @pytest.mark.parametrize("key", ["0", "2001", "-1", "abc", "1.5", "", "4_2", "٤٢", "3000000000", str(2**63), str(2**70)])
    def test_a_key_that_is_not_there_is_a_sentence(self, small: Small, key: str) -> None:
        small.night()
        with pytest.raises(NoPrediction, match=f"no prediction for key {key}"):
            Reader.open("small", small.storage).lookup(key)

    def test_many_keys_are_looked_up_in_their_order(self, small: Small) -> None:
        small.night()
        reader = Reader.open("small", small.storage)
        found = reader.get_many(["42", 7, "nobody", 2_001, 7, str(2**70)])
        assert found == [reader.lookup(42), reader.lookup(7), None, None, reader.lookup(7), None]
        assert reader.get_many([]) == []
        reader.close()

    def test_text_keys_are_looked_up_as_they_are(self, make_small: Make) -> None:
        small = make_small(rows(500, key_type=pa.string()))
        small.night()
        assert Reader.open("small", small.storage).lookup("user-0000042").record["user"] == "user-0000042"
        with pytest.raises(NoPrediction):
            Reader.open("small", small.storage).lookup("42")

    def test_nothing_published_is_a_sentence(self, small: Small) -> None:
        with pytest.raises(NoPrediction, match="Nothing of small"):
            Reader.open("small", small.storage)

    def test_an_older_day_gets_its_release_but_is_not_live(self, small: Small) -> None:
        new, old = small.night("2024-03-10"), small.night("2024-03-09")
        assert (new.is_live, old.is_live) == (True, False)
        assert Reader.open("small", small.storage).lookup(1).record["partition"] == "2024-03-10"
        assert published_matches(small.opened("2024-03-09")).passed

    def test_the_same_day_by_a_later_approval_replaces_it(self, small: Small) -> None:
        first_model = small.model
        first = small.night()
        small.register("v2", small_model([0.9, -0.5, 0.25]))
        second = small.night()
        assert second.is_live
        again = publish(Night.open(small.config, small.storage, DAY, first_model), small.progress)
        assert (again.release.name, again.is_live) == (first.release.name, False)

    def test_publishing_again_changes_nothing(self, small: Small) -> None:
        small.night()
        before = current_log(small.storage, "small").numbers()
        assert small.night().is_live
        assert current_log(small.storage, "small").numbers() == before

    def test_a_record_that_differs_is_never_shown(self, small: Small) -> None:
        """A predictions file is replaced after the manifest was written, by one of the same size with two values swapped."""
        freeze(small.config, small.storage, DAY, small.progress)
        manifest = score(small.opened(DAY), LocalEngine(), small.progress).manifest
        judge(small.opened(DAY))
        path = small.storage.local_path(f"{manifest.folder}/{manifest.files[0].name}")
        data = bytearray(path.read_bytes())
        first, second = pq.read_table(path)["probability"].to_numpy()[:2]
        assert data.count(first.tobytes()) == 1
        place, other = data.index(first.tobytes()), data.index(second.tobytes())
        data[place : place + 4], data[other : other + 4] = second.tobytes(), first.tobytes()
        path.write_bytes(data)
        with pytest.raises(CommitBroken, match=r"chunk-00000\.parquet holds other values"):
            publish(small.opened(DAY), small.progress)
        assert current_log(small.storage, "small").latest() is None
        path.unlink()
        assert small.night().is_live, "the way out that the message names"

    def test_a_damaged_release_is_noticed_by_its_check(self, small: Small) -> None:
        published = small.night()
        data_file(small, published).write_bytes(b"")
        assert published_matches(small.opened(DAY)).blocks
        with pytest.raises(ReleaseBroken, match="publish it again"):
            Reader.open("small", small.storage)
        small.night()
        assert published_matches(small.opened(DAY)).passed, "publishing again replaces it"

    @pytest.mark.parametrize("file", ["arrow.json", "release.arrow"])
    def test_a_release_that_lost_a_file_is_replaced(self, small: Small, file: str) -> None:
        published = small.night()
        (data_file(small, published) if file == "release.arrow" else description(small, published)).unlink()
        assert published_matches(small.opened(DAY)).blocks
        small.night()
        assert published_matches(small.opened(DAY)).passed

    def test_a_damaged_release_stays_until_another_is_ready(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        """One record is damaged and so is a predictions file: the keys of other batches are still answered."""
        monkeypatch.setattr(arrow_file, "BATCH_ROWS", 100)
        published = small.night()
        folder = small.opened(DAY).folder
        chunk = small.storage.local_path(f"{folder}/chunk-00001.parquet")
        value = pq.ParquetFile(chunk).read()["probability"].to_numpy()[:1].tobytes()
        for path in (data_file(small, published), chunk):
            data = bytearray(path.read_bytes())
            assert data.count(value) == 1
            data[data.index(value)] ^= 1
            path.write_bytes(data)
        with pytest.raises(CommitBroken, match="chunk-00001"):
            publish(small.opened(DAY), small.progress)
        assert Reader.open("small", small.storage).lookup(1).record["user"] == 1

    def test_a_release_with_a_damaged_page_is_noticed_and_replaced(self, small: Small) -> None:
        published = small.night()
        path = data_file(small, published)
        data = bytearray(path.read_bytes())
        for place in range(8_192, len(data)):
            data[place] ^= 0x5A
        path.write_bytes(data)
        assert published_matches(small.opened(DAY)).blocks
        small.night()
        assert published_matches(small.opened(DAY)).passed

    @pytest.mark.long
    def test_readers_never_see_a_mixture(self, make_small: Make) -> None:
        """While days with other scores are published in turn, the look-ups of one reader all come from one of them."""
        small = make_small(rows(300), quality={"drift": {"warn": NEVER, "block": NEVER, "day_rank_correlation": -1}})
        expected: dict[str, list[float]] = {}

        def publish_day(day: str) -> None:
            small.replace_rows(rows(300, seed=int(day[-2:])))
            published = small.night(day)
            folder = small.opened(day).folder
            table = pq.read_table(small.storage.local_path(f"{folder}/chunk-00000.parquet"))
            expected[published.release.partition] = table["probability"].to_pylist()[:3]

        publish_day("2024-03-01")
        stop, seen = threading.Event(), []

        def look() -> None:
            while not stop.is_set():
                reader = Reader.open("small", small.storage)
                answers = [reader.lookup(key).record for key in (1, 2, 3)]
                reader.close()
                seen.append(({answer["partition"] for answer in answers}, [answer["probability"] for answer in answers]))

        looking = threading.Thread(target=look)
        looking.start()
        for day in range(2, 8):
            publish_day(f"2024-03-0{day}")
        stop.set()
        looking.join()
        assert seen
        for partitions, probabilities in seen:
            assert len(partitions) == 1
            assert probabilities == expected[partitions.pop()]

    def test_an_open_reader_is_no_damage(self, small: Small) -> None:
        """In the same process it is read back and published again, and nothing is thrown away."""
        published = small.night()
        path = data_file(small, published)
        before = path.stat().st_ino
        reader = Reader.open("small", small.storage)
        assert published_matches(small.opened(DAY)).passed
        assert small.night().is_live
        assert reader.lookup(42).record["user"] == 42
        reader.close()
        assert path.stat().st_ino == before

    def test_a_changed_description_is_never_believed(self, small: Small) -> None:
        published = small.night()
        path = description(small, published)
        path.write_text(path.read_text().replace('"no"', '"maybe"'))
        with pytest.raises(ReleaseBroken, match="not the one that went live"):
            Reader.open("small", small.storage)
        assert published_matches(small.opened(DAY)).blocks
        small.night()
        assert Reader.open("small", small.storage).lookup(1).record["label"] in ("no", "yes")

    def test_no_look_up_answers_with_damaged_bytes(self, small: Small) -> None:
        published = small.night()
        reader = Reader.open("small", small.storage)
        probability = np.float32(reader.lookup(42).record["probability"]).tobytes()
        reader.close()
        path = data_file(small, published)
        data = bytearray(path.read_bytes())
        assert data.count(probability) == 1
        data[data.index(probability)] ^= 1
        path.write_bytes(data)
        with pytest.raises(ReleaseBroken, match=r"Batch 1 of 1 of .* was changed"):
            Reader.open("small", small.storage).lookup(42)

    @pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(8, 30))])
    def test_no_flipped_bit_is_served_or_crashes(self, small: Small, seed: int) -> None:
        published = small.night()
        path = data_file(small, published)
        data = bytearray(path.read_bytes())
        data[np.random.default_rng(seed).integers(len(data))] ^= 1 << (seed % 8)
        path.write_bytes(data)
        published_matches(small.opened(DAY))
        small.night()
        assert published_matches(small.opened(DAY)).passed


def test_what_was_not_judged_is_not_published(small: Small) -> None:
    freeze(small.config, small.storage, DAY, small.progress)
    score(small.opened(DAY), LocalEngine(), small.progress)
    with pytest.raises(NotPublishable, match="not judged"):
        publish(small.opened(DAY), small.progress)
    assert current_log(small.storage, "small").latest() is None
