"""`path`: where a day's answers lie, for programs of others."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.terminal import registry, storage, verb
from batch_assets.errors import NotFound

if TYPE_CHECKING:
    from rich.console import Console


def _show_paths(console: "Console", found: dict[str, Any]) -> None:
    for path in found["paths"]:
        console.print(path, soft_wrap=True, markup=False)


@click.command()
@click.argument("pipeline")
@click.option("--partition", metavar="DAY", help="The day, YYYY-MM-DD, of its accepted run; by default what is live.")
@click.option(
    "--of",
    type=click.Choice(["predictions", "release", "export"]),
    default="predictions",
    help="Print the Parquet files of all rows (the default), the release's one file, or the folder of the export.",
)
@click.option("--view", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write a view for DuckDB.")
@verb(_show_paths)
def path(pipeline: str, partition: str | None, of: str, view: Path | None) -> dict[str, Any]:
    """Print where the answers of PIPELINE lie, a path a line: the files that count, and no others.

    With --view write a FILE of SQL instead, which follows what is live: `duckdb -init FILE` has it as a view.
    """
    from batch_assets.operations.path import paths, write_view
    from batch_assets.orchestration.catalog import pipeline as known

    config = known(pipeline)
    if view is not None:
        if partition:
            raise click.UsageError("--view follows what is live: leave --partition out.")
        write_view(storage(), pipeline, view)
        return {"pipeline": pipeline, "paths": [str(view)]}
    day = config.partitions.require(partition, pipeline) if partition else None
    found = paths(config, storage(), registry(), day)
    named = getattr(found, of)
    if not named:
        where = f"{pipeline} {found.partition} has no {of}"
        how = "it needs `export` in the YAML" if of == "export" else "it needs the store `arrow` in the YAML"
        raise NotFound(f"{where}: {how}, and `batch-assets releases publish {pipeline} {found.partition}`.")
    return {**asdict(found), "paths": [named] if isinstance(named, str) else list(named)}
