"""Whoever is forgotten is not frozen again, whatever the source says; nobody else notices."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import SecretInvalid
from batch_assets.features.forgotten import KEPT_IN, forgotten, forgotten_log, suppress
from batch_assets.features.provenance import read_provenance
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.publish import published_matches
from batch_assets.nightly.summary import summarize
from batch_assets.serving.reader import Reader
from batch_assets_tests.operations.forgetting import secret
from batch_assets_tests.small import DAY, Small, rows

__all__ = ["secret"]

Make = Callable[..., Small]


def keys(*values: object, kind: pa.DataType | None = None) -> pa.Table:
    """Keys as rows."""
    return pa.table({"user": pa.array(values, kind or pa.int64())})


def forget(small: Small, *values: object, kind: pa.DataType | None = None) -> None:
    suppress(small.storage, "small", keys(*values, kind=kind), ["user"], "asked for it")


def frozen_keys(small: Small, day: str = DAY) -> list[object]:
    found = freeze(small.config, small.storage, day, small.progress, refresh=True)
    files = [small.storage.local_path(f"{found.folder}/{one.name}") for one in found.snapshot.files]
    return [key for file in files for key in pq.read_table(file).column("user").to_pylist()]


def test_a_key_that_is_forgotten_does_not_reach_the_disk_and_is_counted(small: Small, secret: Path) -> None:
    forget(small, 7, 1_999)
    found = freeze(small.config, small.storage, DAY, small.progress)
    left_out = read_provenance(small.storage, found.folder).forgotten
    assert left_out is not None
    assert (left_out.rows, left_out.number, found.snapshot.rows) == (2, 1, 1_998)
    small.night()
    summary = summarize(small.opened(), published_matches(small.opened()), "")
    assert (summary["forgotten_rows"], summary["input_rows"], summary["scored_rows"]) == (2, 1_998, 1_998)
    assert all(check["passed"] for check in summary["checks"] if check["severity"] == "error")
    assert Reader.open("small", small.storage).get_many([7, 1_999, 8])[:2] == [None, None]


def test_everybody_else_is_there_bit_for_bit(make_small: Make, secret: Path) -> None:
    one, other = make_small(rows(2_000)), make_small(rows(2_000).filter(pa.array(np.arange(1, 2_001) != 7)))
    forget(one, 7)
    assert frozen_keys(one) == frozen_keys(other)
    digests = {freeze(each.config, each.storage, DAY, each.progress).snapshot.digest for each in (one, other)}
    assert len(digests) == 1


def test_keys_of_text_are_forgotten_too(make_small: Make, secret: Path) -> None:
    small = make_small(rows(50, key_type=pa.string()))
    forget(small, "user-0000007", "user-0000051", "7", kind=pa.string())
    assert [key for key in rows(50, key_type=pa.string())["user"].to_pylist() if key not in frozen_keys(small)] == [
        "user-0000007"
    ]


def test_of_a_key_with_several_columns_all_are_meant(tmp_path: Path, small: Small, secret: Path) -> None:
    table = pa.table({"user": [1, 1, 2], "country": ["de", "fr", "de"], "item": [1, 1, 1]})
    suppress(small.storage, "small", table.slice(1, 1), ["user", "country"], "asked")
    known = forgotten(small.storage, "small")
    assert known is not None
    assert known.rows(table, ["user", "country"]).tolist() == [False, True, False]


def test_a_width_does_not_matter_and_a_type_does(small: Small, secret: Path) -> None:
    forget(small, 42)
    known = forgotten(small.storage, "small")
    assert known is not None
    for kind, wanted in ((pa.int32(), True), (pa.int64(), True), (pa.uint64(), True), (pa.date32(), False)):
        assert known.rows(pa.table({"user": pa.array([42], pa.int32()).cast(kind)}), ["user"]).tolist() == [wanted]
    assert known.rows(keys("42", kind=pa.string()), ["user"]).tolist() == [False]
    assert known.rows(keys(None, 42), ["user"]).tolist() == [False, True]


def test_neither_the_key_nor_what_is_said_of_it_without_the_secret_is_kept(
    make_small: Make, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make_small(), make_small()
    forget(one, 42)
    monkeypatch.setenv(KEPT_IN, str(tmp_path / "another" / "secret"))
    forget(other, 42)
    said = [next(forgotten_log(each.storage, "small").history()).written for each in (one, other)]
    assert said[0]["keys"] != said[1]["keys"]
    assert said[0]["secret"] != said[1]["secret"]
    assert secret.read_text() not in str(said)


def test_a_secret_is_made_that_only_its_owner_reads(small: Small, secret: Path) -> None:
    forget(small, 1)
    assert (os.stat(secret).st_mode & 0o777, len(secret.read_text().strip())) == (0o600, 64)
    before = secret.read_text()
    forget(small, 2)
    assert secret.read_text() == before


def test_the_same_key_is_written_down_once(small: Small, secret: Path) -> None:
    for _ in range(2):
        forget(small, 1)
    assert len(list(forgotten_log(small.storage, "small").history())) == 1


class TestTheSecret:
    """Without it a pipeline that has forgotten somebody freezes nothing: it would bring the key back."""

    def refused(self, small: Small, match: str) -> None:
        with pytest.raises(SecretInvalid, match=match):
            freeze(small.config, small.storage, DAY, small.progress, refresh=True)

    def test_one_that_is_not_named(self, small: Small, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        forget(small, 1)
        monkeypatch.delenv(KEPT_IN)
        self.refused(small, f"small has forgotten keys, which only their secret finds: .*{KEPT_IN} names no file")

    def test_one_that_is_gone_is_not_made_anew(self, small: Small, secret: Path) -> None:
        forget(small, 1)
        secret.unlink()
        self.refused(small, "cannot be read .*: restore it from a copy")
        with pytest.raises(SecretInvalid, match="cannot be read"):
            forget(small, 2)
        assert not secret.exists()

    def test_another_one(self, small: Small, secret: Path) -> None:
        forget(small, 1)
        secret.write_text("x" * 64)
        self.refused(small, "with another secret")
        with pytest.raises(SecretInvalid, match="with another secret"):
            forget(small, 2)

    def test_one_that_is_short(self, small: Small, secret: Path) -> None:
        secret.parent.mkdir()
        secret.write_text("short\n")
        with pytest.raises(SecretInvalid, match="has 5 bytes"):
            forget(small, 1)

    def test_one_under_the_root(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(KEPT_IN, f"{small.storage.root}/secret")
        with pytest.raises(SecretInvalid, match="beside what it protects"):
            forget(small, 1)

    def test_who_has_forgotten_nobody_needs_none(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KEPT_IN, raising=False)
        assert len(frozen_keys(small)) == 2_000
