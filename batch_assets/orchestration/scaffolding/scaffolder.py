"""Writes a pipeline's first folder: the files of `template/` with its name and days, and a table of made-up visits.

The template is a pipeline as it stands: its Python is linted and typed like ours. What is not the same for everybody are the
words of `_Words`, each replaced by one that fits.
"""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click
import dagster as dg
from typing_extensions import override

from batch_assets.clock import today, utc_now
from batch_assets.config import NAME

if TYPE_CHECKING:
    import pyarrow as pa

_TEMPLATE = ("defs.yaml", "features.sql", "train.py")
_ROWS = "visits.parquet"
_PARTITION_DAYS = 35
"""How many days there are partitions of, before the day of the scaffold."""

_BEFORE, _AFTER = 77, 30
"""For how many days before and after the day of the scaffold there are rows: for training, and for nights to come."""

_USERS = 8_000
_SEED = 33
"""One with which user 42 is there on all of these days."""


class PipelineScaffolder(dg.Scaffolder):
    """A folder with the pipeline's YAML, its query, its training, and rows to try them with."""

    @override
    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        folder = request.target_path
        if request.scaffold_format != "yaml":
            raise click.UsageError(f"A ScoringPipeline is declared in YAML: remove {folder}, and leave --format away.")
        if not re.fullmatch(NAME, folder.name):
            raise click.UsageError(
                f"{folder.name} cannot be the name of a pipeline: remove {folder}, and take one of small letters, digits and _."
            )
        day = today(utc_now(), "UTC")
        words = _Words(folder.name, _shown(folder, request.project_root), day)
        for name in _TEMPLATE:
            text = files(__package__).joinpath("template", name).read_text(encoding="utf-8")
            (folder / name).write_text(words.put_into(text), encoding="utf-8")
        _write_rows(folder / _ROWS, day)


@dataclass(frozen=True)
class _Words:
    """What stands in the files of one pipeline for the template's own words."""

    pipeline: str
    folder: str
    today: date

    def put_into(self, text: str) -> str:
        """A file's text with them."""
        first, last = self.today - timedelta(days=_PARTITION_DAYS), self.today - timedelta(days=1)
        words = {
            "defs/your_pipeline": self.folder,
            "your_pipeline": self.pipeline,
            "2000-01-01": first.isoformat(),
            "2000-02-04": last.isoformat(),
        }
        for ours, theirs in words.items():
            text = text.replace(ours, theirs)
        return text


def _shown(folder: Path, root: Path | None) -> str:
    """A folder as it is called from the project's own, where commands are typed."""
    inside = root is not None and folder.resolve().is_relative_to(root.resolve())
    return folder.resolve().relative_to(root.resolve()).as_posix() if root and inside else str(folder)


def _write_rows(path: Path, day: date) -> None:
    import pyarrow.parquet as pq

    pq.write_table(made_up_visits(day), path)


def made_up_visits(day: date) -> "pa.Table":
    """Visits of users who come, visit more or less often, and leave at some time; for one day they are always the same.

    Before somebody leaves, visits become shorter and fewer: this is what a model can learn.
    """
    import numpy as np
    import pyarrow as pa

    random, days = np.random.default_rng(_SEED), np.arange(-_BEFORE, _AFTER)
    joined = random.uniform(-400, _AFTER, _USERS)
    left = joined + random.exponential(120, _USERS)
    often, long = random.uniform(0.05, 0.6, _USERS), random.gamma(4, 8, _USERS)
    there = (joined[:, None] <= days) & (days < left[:, None])
    tired = np.clip((left[:, None] - days) / 21, 0.15, 1)
    users, places = np.nonzero(there & (random.random(there.shape) < often[:, None] * tired))
    minutes = long[users] * tired[users, places] * random.gamma(4, 0.25, len(users))
    visits = pa.table(
        {
            "user_id": pa.array(users + 1, pa.int64()),
            "day": pa.array(np.datetime64(day, "D") + days[places]),
            "minutes": pa.array(np.round(minutes, 1).astype(np.float32)),
        }
    )
    return visits.sort_by([("day", "ascending"), ("user_id", "ascending")])
