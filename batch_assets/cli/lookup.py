"""`lookup`: a key's prediction."""

from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.terminal import shown, storage, verb
from batch_assets.errors import NoPrediction

if TYPE_CHECKING:
    from rich.console import Console


def _show_pairs(console: "Console", found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    for section in ("record", "lineage"):
        for name, value in found[section].items():
            table.add_row(name, escape(shown(value)))
    console.print(table, soft_wrap=True)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("pipeline")
@click.argument("key", nargs=-1, required=True)
@verb(_show_pairs)
def lookup(pipeline: str, key: tuple[str, ...]) -> dict[str, Any]:
    """Print the live prediction for KEY of PIPELINE, with its lineage."""
    from batch_assets.serving.reader import Reader

    _require_a_name(pipeline)
    try:
        reader = Reader.open(pipeline, storage())
    except NoPrediction:
        _require_known(pipeline)
        raise
    try:
        answer = reader.lookup(*key)
    finally:
        reader.close()
    return {"key": answer.key, "record": answer.record, "lineage": answer.lineage}


def _require_a_name(pipeline: str) -> None:
    """Raises NoSuchPipeline for what cannot be the name of one: it would be a path."""
    if not pipeline.isidentifier():
        _require_known(pipeline)


def _require_known(pipeline: str) -> None:
    """Raises NoSuchPipeline. What is published says all that a look-up needs; only where nothing is, the YAML is read."""
    from batch_assets.orchestration.catalog import pipeline as known

    known(pipeline)
