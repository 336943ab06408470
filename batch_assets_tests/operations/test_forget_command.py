"""What `batch-assets forget` says, and what it asks for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from batch_assets.cli import main
from batch_assets.orchestration import catalog
from batch_assets_tests.operations.forgetting import WHY, answers, secret
from batch_assets_tests.small import Small, rows

__all__ = ["secret"]


@pytest.fixture
def said(
    make_small: Callable[..., Small], secret: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Small, str]]:
    """Says something to the command about one published night of a small pipeline; gives what is on stdout."""
    small = make_small(rows(300))
    small.night()
    monkeypatch.setattr(catalog, "pipeline", lambda _: small.config)
    monkeypatch.setenv("BATCH_ASSETS_ROOT", small.storage.root)

    def say(*words: str) -> tuple[Small, str]:
        capfd.readouterr()
        main(["forget", "small", *words], standalone_mode=False)
        return small, capfd.readouterr().out

    return say


Say = Callable[..., tuple[Small, str]]


def test_a_person_is_told_what_is_live_and_where_the_secret_is(said: Say, secret: Path) -> None:
    small, out = said("7", "--reason", WHY)
    assert answers(small, 7) == [None]
    assert f"A new secret is in {secret}: keep a copy" in out
    assert ".f1 is live without it, " in out


def test_keys_come_from_a_file_too(said: Say, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("7\n8\n")
    small, _ = said("--from", str(file), "--reason", WHY)
    assert answers(small, 7, 8) == [None, None]


def test_purge_says_what_it_would_do_until_somebody_says_yes(said: Say) -> None:
    said("7", "--reason", WHY)
    small, out = said("--purge")
    assert "1 day would be purged; add --yes to do it." in out
    assert "Dagster's event log" in out
    found: Any = json.loads(said("--purge", "--yes", "--json")[1])
    assert (found["purge"]["dry_run"], [day["rows"] for day in found["purge"]["days"]]) == (False, [1])
    assert "No file has a row of anybody who is forgotten." in said("--purge", "--yes")[1]
    assert small.opened().manifest().rows == 299


@pytest.mark.parametrize(
    ("words", "match"),
    [((), "Say whom to forget"), (("7", "--yes", "--reason", WHY), "needs --purge"), (("7",), "needs a reason")],
)
def test_what_is_missing_is_said(said: Say, words: tuple[str, ...], match: str) -> None:
    with pytest.raises(click.ClickException, match=match):
        said(*words)
