"""Which files a table consists of."""

import glob
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TableSettings(BaseModel):
    """One table of the query: its files, and what is known of them. In YAML a plain text is the path alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="A Parquet file, a folder of them, or a glob.", min_length=1)
    hive: bool = Field(False, description="Whether folders like day=2026-01-01 are columns.")
    event_date: str | None = Field(None, description="The column that says when a row happened; without it nobody looks.")
    optional: tuple[str, ...] = Field((), description="Columns that some files may lack; they are null there.")

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, said: Any) -> Any:
        return {"path": said} if isinstance(said, str) else said


def files_of(path: str) -> list[Path]:
    """The files of a path, ascending."""
    return [Path(name) for name in sorted(glob.glob(path, recursive=True))]
