"""`forget`: somebody's right to erasure."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import TerminalProgress, registry, storage, verb

if TYPE_CHECKING:
    from batch_assets.config import PipelineConfig
    from batch_assets.features.keys import Said


def _show(console: Console, found: dict[str, Any]) -> None:
    for name, show in (("forgotten", _show_forgotten), ("purge", _show_purge)):
        if found[name]:
            show(console, found[name])


def _show_forgotten(console: Console, found: dict[str, Any]) -> None:
    if found["secret"]:
        console.print(
            f"A new secret is in {escape(found['secret'])}: keep a copy, without it nothing of {found['pipeline']} is frozen "
            "any more.",
            soft_wrap=True,
        )
    console.print(
        f"Entry {found['number']} of {found['pipeline']}/_forgotten; no night freezes the key any more.", soft_wrap=True
    )
    if found["live"]:
        console.print(f"{found['live']} is live without it, {found['seconds']:.1f} s later.", soft_wrap=True)
    for name in found["rebuilt"]:
        if name != found["live"]:
            console.print(f"{name} was built without it.", soft_wrap=True)
    for name in found["removed"]:
        console.print(f"{name} was removed: its run is not kept any more.", soft_wrap=True)
    for name, who in found["busy"].items():
        console.print(
            escape(f"{name} is being published by {who}, who leaves it out: say the same again later."), soft_wrap=True
        )
    for store, why in found["lagging"].items():
        console.print(escape(f"{store} still answers it: {why}"), soft_wrap=True)


def _show_purge(console: Console, found: dict[str, Any]) -> None:
    table = Table("day", "rows", "written anew", "taken away", box=None)
    table.columns[1].justify = "right"
    for day in found["days"]:
        table.add_row(day["day"], f"{day['rows']:,}", "\n".join(day["rewritten"]), "\n".join(day["dropped"]))
    if found["days"]:
        console.print(table)
    done = "would be purged; add --yes to do it" if found["dry_run"] else "were purged, and what is left was proven"
    days = len(found["days"])
    console.print(
        f"{days} {'day' if days == 1 else 'days'} {done}." if days else "No file has a row of anybody who is forgotten."
    )
    console.print("Out of reach, and yours to look after:")
    for one in found["out_of_reach"]:
        console.print(f"- {escape(one)}", soft_wrap=True)


def _read(file: str) -> "list[Said]":
    text = sys.stdin.read() if file == "-" else Path(file).read_text()
    return [line.split("\t") for line in text.splitlines() if line]


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("pipeline")
@click.argument("key", nargs=-1)
@click.option("--from", "file", metavar="FILE", help="Keys, one a line, columns with tabs between; - is stdin.")
@click.option("--reason", default="", help="Why; it stands in the log, so it must not name the key.")
@click.option("--purge", is_flag=True, help="Say what would be written anew without the rows of all who are forgotten.")
@click.option("--yes", is_flag=True, help="With --purge: do it.")
@verb(_show)
def forget(pipeline: str, key: tuple[str, ...], file: str | None, reason: str, purge: bool, yes: bool) -> dict[str, Any]:
    """Forget KEY of PIPELINE: no store answers it any more, and no night freezes it again.

    A KEY on the command line is kept by your shell's history; --from is not.
    """
    from dataclasses import asdict

    from batch_assets.operations.forget import forget as forgotten
    from batch_assets.operations.purge import purge as purged

    if yes and not purge:
        raise click.UsageError("--yes says that --purge is meant: it needs --purge.")
    keys: list[Said] = [*([key] if key else []), *(_read(file) if file else [])]
    if not keys and not purge:
        raise click.UsageError("Say whom to forget: a KEY, or --from a file.")
    config, root, models = _config(pipeline), storage(), registry()
    with TerminalProgress() as progress:
        hushed = forgotten(config, root, models, keys, reason, progress) if keys else None
        done = purged(config, root, models, progress, dry_run=not yes) if purge else None
    lagging = hushed.lagging if hushed else {}
    problem = " ".join(f"{store} still answers the key: {why}" for store, why in lagging.items())
    return {
        "pipeline": pipeline,
        "forgotten": asdict(hushed) if hushed else None,
        "purge": asdict(done) if done else None,
        **({"error": problem} if problem else {}),
    }


def _config(pipeline: str) -> "PipelineConfig":
    from batch_assets.orchestration.catalog import pipeline as known

    return known(pipeline)
