"""`diff`: who moved between two nights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import TerminalProgress, registry, shown, storage, verb

if TYPE_CHECKING:
    from batch_assets.operations.moves import By

_SHOWN_LABELS = 10


def _show(console: Console, found: dict[str, Any]) -> None:
    before, after = found["before"], found["after"]
    title = f"{found['pipeline']} {before['partition']} -> {after['partition']}"
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    for one in (before, after):
        made = f"{one['model']} {one['version']}, snapshot {one['snapshot'][:16]}"
        table.add_row(one["partition"], escape(f"run {one['run_id']} by {made}, {one['scored']:,} keys scored"))
    table.add_row("keys", f"{found['both']:,} on both days, {found['new']:,} new, {found['gone']:,} gone")
    if found["both"]:
        for name, said in _moves(found).items():
            table.add_row(escape(name), escape(said))
    for note in found["notes"]:
        table.add_row("note", escape(note))
    console.print(table, soft_wrap=True)
    for name, movers in found["movers"].items():
        if movers:
            console.print(_movers(name, movers, before["partition"], after["partition"]))
    if found["picture"]:
        console.print(f"The picture: {found['picture']}", soft_wrap=True, markup=False)


def _moves(found: dict[str, Any]) -> dict[str, str]:
    """How far scores, deciles and labels moved, in words."""
    both, up, down = found["both"], found["up"], found["down"]
    said = {found["score"]: f"{up / both:.1%} higher, {down / both:.1%} lower, {(both - up - down) / both:.1%} the same"}
    said["difference"] = ", ".join(f"{name} {value:.3g}" for name, value in found["difference"].items())
    steps = {int(step): rows for step, rows in found["by_deciles"].items()}
    if steps:
        higher, lower = (sum(rows for step, rows in steps.items() if sign * step > 0) for sign in (1, -1))
        said["decile"] = f"{steps[0] / both:.1%} the same, {higher:,} keys higher, {lower:,} lower"
    if found["relabelled"] is not None:
        changes = [f"{one['before']} -> {one['after']} {one['rows']:,}" for one in found["relabelled"]]
        rest = len(changes) - _SHOWN_LABELS
        more = [f"and {rest} other changes (--json has them)"] if rest > 0 else []
        said["label"] = ", ".join([*changes[:_SHOWN_LABELS], *more]) or "none changed"
    return said


def _movers(name: str, movers: tuple[dict[str, Any], ...], before: str, after: str) -> Table:
    title = "whose label changed" if name == "changed" else f"who moved {name} most"
    table = Table(title=f"{title}, from {before} to {after}", title_justify="left", box=None)
    fields = dict.fromkeys([*movers[0]["before"], *movers[0]["after"]])
    for column in ("key", *fields, "difference"):
        table.add_column(escape(column), justify="left" if column == "key" else "right", overflow="fold")
    for one in movers:
        pairs = (f"{_said(one['before'], field)} -> {_said(one['after'], field)}" for field in fields)
        key = ", ".join(map(str, one["key"])) if isinstance(one["key"], list | tuple) else str(one["key"])
        table.add_row(escape(key), *map(escape, pairs), f"{one['difference']:+.6g}")
    return table


def _said(record: dict[str, Any], field: str) -> str:
    return shown(record[field]) if field in record else "none"


@click.command()
@click.argument("pipeline")
@click.argument("before", metavar="DAY1")
@click.argument("after", metavar="DAY2")
@click.option("--top", type=click.IntRange(1, 1_000), default=10, show_default=True, help="How many top movers are named.")
@click.option(
    "--by",
    type=click.Choice(["score", "label"]),
    default="score",
    show_default=True,
    help="Who they are: whose score moved most, or whose label changed.",
)
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw who moved, into this file.")
@verb(_show)
def diff(pipeline: str, before: str, after: str, top: int, by: "By", svg: Path | None) -> dict[str, Any]:
    """Compare the accepted runs of two days of PIPELINE, key by key: who moved, who is new, who is gone."""
    from batch_assets.operations.diff import diff as compared
    from batch_assets.operations.diff import picture
    from batch_assets.orchestration.catalog import pipeline as known

    if svg and not svg.parent.is_dir():
        raise click.UsageError(f"--svg: there is no folder {svg.parent}.")
    config = known(pipeline)
    days = [config.partitions.require(day, pipeline) for day in (before, after)]
    with TerminalProgress() as progress:
        found = compared(config, storage(), registry(), days[0], days[1], progress, top=top, by=by)
    if svg:
        svg.write_bytes(picture(found))
    return {**found.as_mapping(), "picture": str(svg) if svg else None}
