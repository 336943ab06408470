"""`explain` and `replay`: one key's prediction, from its frozen row to the answer, and the same once more."""

from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import at, mark, registry, shown, storage, verb

_PARTITION = click.option("--partition", metavar="DAY", help="The day, YYYY-MM-DD; by default that of the live release.")


def _pairs(title: str) -> Table:
    table = Table(title=escape(title), title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    return table


def _listed(values: dict[str, Any]) -> str:
    return escape(", ".join(f"{name} {shown(value)}" for name, value in values.items()))


def _show_explanation(console: Console, found: dict[str, Any]) -> None:
    table = _pairs(f"{found['pipeline']} {found['partition']}, key {found['key']}")
    if found["prediction"]:
        table.add_row("prediction", _listed(found["prediction"]))
    else:
        error = f" ({found['error']})" if found["error"] else ""
        table.add_row("prediction", f"none, {found['fate']}: {escape(found['reason'] + error)}")
    model, approval, origin = found["model"], found["approval"], found["origin"]
    table.add_row("features", _listed(found["features"]))
    table.add_row("frozen in", f"{origin['file']}, row {origin['row']:,}, of snapshot {origin['snapshot']}")
    for one in found["read_from"]:
        pinned = f", {one['pinned']}" if one["pinned"] else ""
        files = f", {len(one['files']):,} files" if len(one["files"]) > 1 else ""
        table.add_row(f"table {one['table']}", escape(f"{one['path']}{pinned}{files}, {one['rows']:,} rows"))
    table.add_row("model", f"{model['name']} {model['version']}, sha256 {model['sha256']}")
    table.add_row("model digest", model["digest"])
    said = f"{approval['number']} by {approval['by']}, {approval['when']}: {approval['why']}" if approval else "not recorded"
    table.add_row("approval", escape(said))
    table.add_row("run", f"{found['run_id']} ({found['chosen']})")
    chunk, written = found["scored_by"], found["scored_by"]["written"]
    where = f", {written['when']} on {written['host']}, pid {written['pid']}" if written else ""
    table.add_row("written", escape(f"{chunk['chunk']}, attempt {chunk['attempt']}{where}"))
    table.add_row("in", chunk["file"])
    table.add_row("scored with", f"batches of {chunk['batch_rows']:,} rows, {_listed(chunk['environment'])}")
    for check in found["checks"]:
        table.add_row(f"check {check['name']}", f"{mark(check)}  {escape(check['message'])}")
    table.add_row("judged", ", ".join(dict.fromkeys(at(check["judged"]) for check in found["checks"])) or "not yet")
    release = found["release"]
    state = "live" if release["is_live"] else f"not live; live is {release['live'] or 'nothing'}"
    if release["name"] and not release["matches"]:
        state += "; it does not hold what the run does now: run the partition again"
    table.add_row("release", f"{release['name'] or 'none'} ({state})")
    console.print(table, soft_wrap=True)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("pipeline")
@click.argument("key", nargs=-1, required=True)
@_PARTITION
@verb(_show_explanation)
def explain(pipeline: str, key: tuple[str, ...], partition: str | None) -> dict[str, Any]:
    """Tell where the prediction for KEY of PIPELINE comes from, or why there is none."""
    from batch_assets.operations.explain import explain as explained
    from batch_assets.orchestration.catalog import pipeline as known

    config = known(pipeline)
    day = config.partitions.require(partition, pipeline) if partition else None
    return explained(config, storage(), registry(), key, day).as_mapping()


def _show_replay(console: Console, found: dict[str, Any]) -> None:
    table = _pairs(f"{found['pipeline']} {found['partition']}, key {found['key']}, run {found['run_id']}, {found['model']}")
    table.add_row("recorded", _listed(found["recorded"]))
    table.add_row("in", found["file"])
    table.add_row("on", _listed(found["recorded_environment"] or {"environment": "not recorded"}))
    table.add_row("replayed", _listed(found["replayed"]))
    table.add_row("on", _listed(found["replayed_environment"]))
    table.add_row("shape", f"batches of {found['batch_rows']:,} rows")
    table.add_row("verdict", found["verdict"])
    console.print(table, soft_wrap=True)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("pipeline")
@click.argument("key", nargs=-1, required=True)
@_PARTITION
@verb(_show_replay)
def replay(pipeline: str, key: tuple[str, ...], partition: str | None) -> dict[str, Any]:
    """Score KEY of PIPELINE again from what was recorded, and compare; exit status 1 if it differs by more than it may."""
    from batch_assets.operations.replay import replay as replayed
    from batch_assets.orchestration.catalog import pipeline as known

    config = known(pipeline)
    day = config.partitions.require(partition, pipeline) if partition else None
    return asdict(replayed(config, storage(), registry(), key, day))
