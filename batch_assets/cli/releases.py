"""`releases`: what is live and where, publish, go back, prune."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import TerminalProgress, registry, storage, verb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch_assets.config import PipelineConfig


@click.group()
def releases() -> None:
    """Releases: which there are and where, publish one, go back from one, prune."""


_PIPELINE = click.argument("pipeline")


def _show_list(console: Console, found: dict[str, Any]) -> None:
    table = Table("release", "model", "rows", "stores", "state", "live since (UTC)", box=None)
    table.columns[2].justify = "right"
    for one in found["releases"]:
        cells = (one["release"], one["model"], f"{one['rows']:,}", ", ".join(one["stores"]), one["state"])
        table.add_row(*map(escape, cells), (one["live_since"] or "")[:16])
    console.print(table if found["releases"] else "Nothing was published yet.")
    for one in found["stores"]:
        if one["trouble"]:
            console.print(escape(f"{one['store']}: {one['trouble']}"), soft_wrap=True)


@releases.command("list")
@_PIPELINE
@verb(_show_list)
def list_(pipeline: str) -> dict[str, Any]:
    """List the releases of PIPELINE, the newest day first, and the stores that lag."""
    from batch_assets.operations.releases import list_releases, list_stores

    config = _config(pipeline)
    return {
        "pipeline": pipeline,
        "releases": [asdict(one) for one in list_releases(config, storage())],
        "stores": [asdict(one) for one in list_stores(config, storage())],
    }


def _show_pairs(console: Console, found: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    for name, value in found.items():
        if isinstance(value, dict):
            for store, said in value.items():
                table.add_row(f"in {store}", escape(str(said)))
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            table.add_row(name.replace("_", " "), escape(f"{shown:,}" if isinstance(shown, int) else str(shown or "")))
    console.print(table, soft_wrap=True)


@releases.command()
@_PIPELINE
@click.argument("release")
@verb(_show_pairs)
def show(pipeline: str, release: str) -> dict[str, Any]:
    """Show a RELEASE of PIPELINE: where it came from, and whether each store still has it."""
    from batch_assets.operations.releases import show_release

    return show_release(_config(pipeline), storage(), release)


@releases.command()
@_PIPELINE
@click.argument("day")
@click.option("--why", default="", help="Your reason; needed for a release that somebody went back from.")
@verb(_show_pairs)
def publish(pipeline: str, day: str, why: str) -> dict[str, Any]:
    """Publish the accepted run of a DAY of PIPELINE in every store; a store that lagged catches up."""
    from batch_assets.operations.releases import publish_day

    with TerminalProgress() as progress:
        found = publish_day(_config(pipeline), storage(), registry(), day, progress, why)
    problems = _lag({**found.lagging, **found.lagging_tables})
    problem = " ".join([*problems, *([f"It is not exported: {found.not_exported}"] if found.not_exported else [])])
    return {
        "pipeline": pipeline,
        "release": found.release.name,
        "rows": found.release.rows,
        "live_release": found.live,
        "lagging": dict(found.lagging),
        "lagging_tables": dict(found.lagging_tables),
        "not_exported": found.not_exported,
        **({"error": problem} if problem else {}),
    }


@releases.command()
@_PIPELINE
@click.option("--to", metavar="RELEASE", help="What is to be live; by default the release before the live one.")
@click.option("--why", required=True, help="Your reason; it stands in the log.")
@verb(_show_pairs)
def rollback(pipeline: str, to: str | None, why: str) -> dict[str, Any]:
    """Let an earlier release of PIPELINE be live again, at once, in every store."""
    from batch_assets.operations.releases import go_back

    found = go_back(_config(pipeline), storage(), registry(), why, to)
    live, problem = found.live.body, " ".join(_lag(found.lagging_tables))
    return {
        "pipeline": pipeline,
        "live_release": live.release,
        "stores": [one.store for one in live.stores],
        "withdrawn": live.withdrawn,
        "lagging_tables": dict(found.lagging_tables),
        **({"error": problem} if problem else {}),
    }


def _lag(some: "Mapping[str, str]") -> list[str]:
    return [f"{name} lags: {reason}" for name, reason in some.items()]


def _show_pruned(console: Console, found: dict[str, Any]) -> None:
    verb = "would be removed" if found["dry_run"] else "removed"
    for store, release in found["removed"]:
        console.print(escape(f"{release} {verb} from {store}."), soft_wrap=True)
    if not found["removed"]:
        console.print("Every store has only what it keeps.")
    for store, reason in found["unavailable"].items():
        console.print(escape(f"Nothing is removed from {store} now: {reason}"), soft_wrap=True)


@releases.command()
@_PIPELINE
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@verb(_show_pruned)
def prune(pipeline: str, dry_run: bool) -> dict[str, Any]:
    """Let each store of PIPELINE keep as many releases as its settings say, and drop what died tries left behind."""
    from batch_assets.operations.releases import prune_stores

    found = prune_stores(_config(pipeline), storage(), dry_run=dry_run)
    return {"pipeline": pipeline, "dry_run": dry_run, "removed": [list(one) for one in found.removed], **_not_asked(found)}


def _not_asked(found: Any) -> dict[str, Any]:
    problem = " ".join(found.unavailable.values())
    return {"unavailable": found.unavailable, **({"error": problem} if problem else {})}


def _config(pipeline: str) -> "PipelineConfig":
    from batch_assets.orchestration.catalog import pipeline as known

    return known(pipeline)
