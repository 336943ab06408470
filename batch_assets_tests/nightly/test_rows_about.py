"""Whole nights of rows that are about more than one column: a key of two, a user and an item, and columns that are carried."""

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import BadKeys, ContractBroken, NoPrediction, NotPublishable, ProofFailed
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.publish import publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.operations.dead_letters import list_dead_letters, show_dead_letter
from batch_assets.operations.dead_letters import replay as replay_dead
from batch_assets.operations.explain import explain
from batch_assets.operations.replay import replay
from batch_assets.runs.manifest import Manifest, latest_manifest
from batch_assets.serving.reader import Reader
from batch_assets_tests.small import DAY, Small, Working, rows, with_values

Make = Callable[..., Small]
TWO = [{"name": "user", "dtype": "int64"}, {"name": "country", "dtype": "string"}]
FEATURES = [{"name": name} for name in "xyz"]


def pipeline(make_small: Make, table: pa.Table, contract: dict[str, Any], **settings: Any) -> Small:
    """A small pipeline over a table with every column of it, in its order."""
    small = make_small(rows(10), **settings)
    small.replace_rows(table)
    query = small.source.parent / "query.sql"
    query.write_text("SELECT * FROM rows WHERE $partition IS NOT NULL")
    source = {"kind": "duckdb", "query": str(query), "tables": {"rows": str(small.source)}}
    said = small.config.model_dump(mode="json") | {
        "features": {"source": source, "contract": {"columns": FEATURES, **contract}}
    }
    small.config = type(small.config).model_validate(said)
    model = small.registry.storage.read("models/small/v1/model.pt2")
    small.register("v2", model)
    return small


def by_country(seed: int = 1) -> pa.Table:
    """400 users in three countries each, in no order."""
    features = rows(1_200, seed=seed).drop_columns("user")
    order = np.random.default_rng(seed).permutation(1_200)
    table = pa.table({"user": np.repeat(np.arange(1, 401), 3), "country": ["it", "de", "fr"] * 400})
    for name in "xyz":
        table = table.append_column(name, features[name])
    return table.take(order)


def finished(small: Small) -> Manifest:
    """Frozen, scored and judged, by chunks of 256 rows."""
    freeze(small.config, small.storage, DAY, small.progress)
    manifest = score(small.opened(DAY), LocalEngine(1), small.progress).manifest
    assert judge(small.opened(DAY)).good
    return manifest


def predictions(small: Small, manifest: Manifest) -> pa.Table:
    return pa.concat_tables(pq.read_table(small.storage.local_path(f"{manifest.folder}/{one.name}")) for one in manifest.files)


class TestTwoColumns:
    @pytest.fixture
    def small(self, make_small: Make) -> Small:
        return pipeline(make_small, by_country(), {"key": TWO})

    def test_rows_come_in_the_order_of_both_and_are_proven(self, small: Small) -> None:
        manifest = finished(small)
        table = predictions(small, manifest)
        keys = list(zip(table["user"].to_pylist(), table["country"].to_pylist(), strict=True))
        assert keys == sorted(keys)
        assert (len(keys), manifest.proof.rows, manifest.audit.rows > 0) == (1_200, 1_200, True)

    def test_a_row_is_explained_and_replayed_by_both(self, small: Small) -> None:
        finished(small)
        found = explain(small.config, small.storage, small.registry, ("17", "fr"), DAY)
        source = by_country().to_pylist()
        (row,) = [one for one in source if (one["user"], one["country"]) == (17, "fr")]
        assert found.key == [17, "fr"]
        assert found.features == {name: pytest.approx(row[name]) for name in "xyz"}
        again = replay(small.config, small.storage, small.registry, ("17", "fr"), DAY)
        assert again.bit_equal
        assert again.recorded == found.prediction

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            (("17", "nl"), r"for key \(17, nl\): it is not in the snapshot"),
            (("401", "de"), r"for key \(401, de\): it is not in the snapshot"),
            ("17", "for key 17: .*; a row is about user, country: say a value for each"),
        ],
    )
    def test_a_row_that_is_not_there_is_a_sentence(self, small: Small, key: Any, said: str) -> None:
        finished(small)
        with pytest.raises(NoPrediction, match=said):
            explain(small.config, small.storage, small.registry, key, DAY)

    def test_it_is_served_by_both(self, small: Small) -> None:
        finished(small)
        published = publish(small.opened(DAY), small.progress)
        assert published_matches(small.opened(DAY)).passed
        assert published.release.rows == 1_200
        reader = Reader.open("small", small.storage)
        assert reader.lookup(17, "fr").record["country"] == "fr"
        assert reader.get_many([(17, "fr"), (17, "nl"), 17]) == [reader.lookup(17, "fr"), None, None]
        with pytest.raises(NoPrediction, match=r"no prediction for key \(17, nl\)"):
            reader.lookup("17", "nl")
        with pytest.raises(NoPrediction, match=r"for key 17: keys of small are user \(int64\), country \(string\)"):
            reader.lookup(17)

    def test_a_key_that_is_there_twice_is_told_with_its_place(self, small: Small) -> None:
        small.replace_rows(pa.concat_tables([by_country(), by_country().slice(5, 1)]))
        with pytest.raises(BadKeys, match=r"key \(user, country\) is there twice: \(\d+, '..'\).* It is in row"):
            freeze(small.config, small.storage, DAY, small.progress)

    def test_a_committed_row_that_is_moved_to_another_key_fails_the_proof(self, small: Small) -> None:
        working = Working(small)
        working.score_all()
        working.prove()
        path = working.path(1)
        table = pq.ParquetFile(path).read()
        countries = table["country"].to_pylist()
        countries[3] = "nl"
        changed = table.set_column(table.schema.get_field_index("country"), "country", pa.array(countries))
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(ProofFailed, match=r"chunk-00001 .* holds other keys"):
            working.prove()

    def test_dead_letters_are_known_by_both_and_scored_again(self, make_small: Make) -> None:
        table = with_values(by_country(), "y", {7: None})
        small = pipeline(make_small, table, {"key": TWO})
        manifest = finished(small)
        (letter,) = list_dead_letters(small.config, small.storage, manifest)
        dead = (table["user"][7].as_py(), table["country"][7].as_py())
        assert letter.key == list(dead)
        shown = show_dead_letter(small.config, small.storage, manifest, tuple(map(str, dead)))
        assert shown["features"]["y"] is None
        outcome = replay_dead(small.config, small.storage, small.registry, manifest.folder, LocalEngine(1), small.progress)
        assert (outcome.replayed, outcome.scored) == (1, 0)


class TestDays:
    def test_a_day_is_a_key(self, make_small: Make) -> None:
        table = rows(300)
        days = pa.array(np.arange(300, dtype=np.int32)).cast(pa.date32())
        small = pipeline(make_small, table.set_column(0, "day", days), {"key": {"name": "day", "dtype": "date"}})
        finished(small)
        publish(small.opened(DAY), small.progress)
        answer = Reader.open("small", small.storage).lookup("1970-02-01")
        assert (answer.key, answer.record["day"]) == ("1970-02-01", "1970-02-01")
        assert explain(small.config, small.storage, small.registry, "1970-02-01", DAY).key == "1970-02-01"
        assert replay(small.config, small.storage, small.registry, date(1970, 2, 1), DAY).bit_equal


def candidates(users: int, most: int) -> pa.Table:
    """Users with 1 to `most` candidates each."""
    random = np.random.default_rng(5)
    counts = random.integers(1, most + 1, users)
    total = int(counts.sum())
    items = np.concatenate([np.arange(count) for count in counts])
    features = {name: random.standard_normal(total).astype(np.float32) for name in "xyz"}
    return pa.table({"user": np.repeat(np.arange(users), counts), "item": items.astype(np.int32), **features})


ABOUT = {"key": {"name": "user", "dtype": "int64"}, "item": {"name": "item", "dtype": "int32"}}


class TestItems:
    def test_every_candidate_of_a_user_is_a_row(self, make_small: Make) -> None:
        table = candidates(50, 200)
        small = pipeline(make_small, table, ABOUT)
        manifest = finished(small)
        assert manifest.scored == manifest.proof.rows == len(table)
        last = table["item"].to_numpy()[table["user"].to_numpy() == 31].max()
        found = explain(small.config, small.storage, small.registry, (31, int(last)), DAY)
        assert found.key == [31, last]
        assert replay(small.config, small.storage, small.registry, (31, int(last)), DAY).bit_equal
        with pytest.raises(NoPrediction, match=r"\(31, \d+\): it is not in the snapshot"):
            explain(small.config, small.storage, small.registry, (31, int(last) + 1), DAY)

    @pytest.mark.parametrize("best", [1, 3, 50])
    def test_a_key_is_answered_with_its_best_items(self, make_small: Make, best: int) -> None:
        small = pipeline(make_small, candidates(50, 20), ABOUT, items={"best": best})
        manifest = finished(small)
        published = publish(small.opened(DAY), small.progress)
        expected: dict[int, list[tuple[float, int]]] = {}
        for row in predictions(small, manifest).to_pylist():
            expected.setdefault(row["user"], []).append((-row["probability"], row["item"]))
        assert published.release.rows == len(expected)
        reader = Reader.open("small", small.storage)
        for user, answer in zip(expected, reader.get_many(list(expected)), strict=True):
            assert answer is not None
            pairs = sorted(expected[user])[:best]
            record = answer.record
            assert record["items"] == [item for _, item in pairs]
            assert record["scores"] == [-score for score, _ in pairs]
            assert (record["count"], record["probability"]) == (len(pairs), -pairs[0][0])
        assert reader.get(10**6) is None
        assert published_matches(small.opened(DAY)).passed

    def test_items_without_a_fixed_width_are_refused(self, make_small: Make) -> None:
        table = candidates(50, 20)
        names = pa.array([f"item {number}" for number in table["item"].to_pylist()])
        about = {**ABOUT, "item": {"name": "item", "dtype": "string"}}
        small = pipeline(make_small, table.set_column(1, "item", names), about)
        finished(small)
        with pytest.raises(NotPublishable, match="item is string, and a release has items that are whole numbers"):
            publish(small.opened(DAY), small.progress)


CARRY = [{"name": "segment", "dtype": "string"}, {"name": "seen", "dtype": "timestamp[us]"}]


class TestCarried:
    @pytest.fixture
    def small(self, make_small: Make) -> Small:
        table = rows(600)
        segments = pa.array([None if n % 7 == 0 else f"segment {n % 5}" for n in range(600)])
        seen = pa.array(np.arange(600) * 1_000_003, pa.timestamp("us"))
        table = table.append_column("segment", segments).append_column("seen", seen)
        return pipeline(make_small, table, {"key": TWO[0], "carry": CARRY})

    def test_they_go_to_the_predictions_untouched(self, small: Small) -> None:
        table = predictions(small, finished(small))
        source = pq.read_table(small.source)
        assert table["segment"].combine_chunks().equals(source["segment"].combine_chunks())
        assert table["seen"].combine_chunks().equals(source["seen"].combine_chunks())
        assert table.column_names[:3] == ["user", "segment", "seen"]

    def test_no_gate_and_no_release_knows_them(self, small: Small) -> None:
        finished(small)
        publish(small.opened(DAY), small.progress)
        assert "segment" not in Reader.open("small", small.storage).lookup(3).record

    def test_one_that_was_changed_is_found_by_the_audit(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        from batch_assets.proof import audit

        read = audit.read_committed

        def other(*arguments: Any) -> pa.Table:
            table = read(*arguments)
            return table.set_column(table.schema.get_field_index("segment"), "segment", pa.array(["wrong"] * len(table)))

        monkeypatch.setattr(audit, "read_committed", other)
        freeze(small.config, small.storage, DAY, small.progress)
        with pytest.raises(ProofFailed, match=r"carries another segment for user \d+ than the snapshot has"):
            score(small.opened(DAY), LocalEngine(1), small.progress)

    def test_one_of_another_type_is_refused(self, small: Small) -> None:
        table = pq.read_table(small.source)
        small.replace_rows(table.set_column(4, "segment", pa.array(range(600))))
        freeze(small.config, small.storage, DAY, small.progress)
        with pytest.raises(ContractBroken, match="segment is int64 instead of string"):
            score(small.opened(DAY), LocalEngine(1), small.progress)
        manifest = latest_manifest(small.storage, small.opened(DAY).folder)
        assert manifest is None
