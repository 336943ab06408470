"""`demo` and `run`: a day from its features to what is published."""

import time
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import TerminalProgress, mark, registry, shown, storage, verb
from batch_assets.clock import utc_now
from batch_assets.errors import BatchAssetsError, ConfigError
from batch_assets.process import parent_seconds

if TYPE_CHECKING:
    from batch_assets.config import PipelineConfig
    from batch_assets.engines.engine import EngineName
    from batch_assets.models.registry import ModelVersion


def _show_run(console: Console, found: dict[str, Any]) -> None:
    table = Table(title=f"{found['pipeline']} {found['partition']}", title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    seconds, model, lookup = found["seconds"], found["model"], found["lookup"]
    table.add_row(
        "rows",
        f"{found['input_rows']:,} in = {found['scored_rows']:,} scored + {found['excluded_rows']:,} excluded "
        f"+ {found['dead_letter_rows']:,} dead-lettered",
    )
    if found["forgotten_rows"]:
        table.add_row("excluded: forgotten", f"{found['forgotten_rows']:,} of the source, which are in no file")
    table.add_row("run", f"{found['run_id']}, {found['resumed_chunks']} chunks resumed")
    table.add_row("engine", found["engine"])
    table.add_row("model", f"{model['name']} {model['version']}, sha256 {model['sha256'][:16]}…")
    for check in found["checks"]:
        table.add_row(f"check {check['name']}", f"{mark(check)}  {escape(check['message'])}")
    live = "live" if found["live_release"] == found["release"] else f"not live, {found['live_release']} is newer"
    table.add_row("release", f"{found['release']} ({live})")
    if lookup:
        record = ", ".join(f"{name} {shown(value)}" for name, value in lookup["record"].items())
        table.add_row("look-up", escape(record))
    table.add_row("digest", found["digest"])
    table.add_row("seconds", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    console.print(table, soft_wrap=True)


def _run(
    name: str, day: str, engine: "EngineName | None", refresh: bool, as_of: bool, progress: TerminalProgress
) -> dict[str, Any]:
    from batch_assets.nightly.summary import summarize
    from batch_assets.orchestration.catalog import pipeline
    from batch_assets.orchestration.launch import materialize, open_instance

    config = pipeline(name)
    day = config.partitions.require(day, name)
    model = _models(config, [day], as_of)[day]  # before anything is begun
    if isinstance(model, BatchAssetsError):
        raise model
    began = utc_now().isoformat(timespec="milliseconds")
    command = time.time() - parent_seconds()  # that was started; this one is its child
    with open_instance() as instance:
        ready = time.time()
        launched = materialize(config, day, instance, progress, model=model, engine=engine, refresh=refresh)
        done = time.time()
    summary, now = summarize(launched.night, launched.matches, began), time.time()
    seconds = {"start-up": ready - command, **launched.seconds, "summary": now - done, "total": now - command}
    return {
        **summary,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "resumed_chunks": launched.resumed_chunks,
        "dagster_run_id": launched.dagster_run_id,
    }


def _models(config: "PipelineConfig", days: list[str], as_of: bool) -> "dict[str, ModelVersion | BatchAssetsError]":
    """Which version scores which day: the one that is approved now, or, as of a day, the one that was approved at its end.

    A day for which there is none has the reason.
    """
    from batch_assets.orchestration.pins import day_end

    known, model = registry(), config.model
    if not as_of:
        return dict.fromkeys(days, known.resolve(model))
    approvals = known.approvals(model.name, model.alias)

    def at_its_end(day: str) -> "ModelVersion | BatchAssetsError":
        try:
            return resolved(approvals.as_of(day_end(config, day)).number)
        except BatchAssetsError as error:
            return error

    @cache
    def resolved(number: int) -> "ModelVersion":
        return known.resolve(model, number)

    return {day: at_its_end(day) for day in days}


@click.command()
@click.option("--train", metavar="VERSION", help="Only train and register another version of the demo's model.")
@click.option("--seed", type=int, help="With which random numbers to train it.")
@verb(lambda console, found: (_show_run if "run_id" in found else _show_trained)(console, found), uses_ray=True)
def demo(train: str | None, seed: int | None) -> dict[str, Any]:
    """Score every CDNOW customer for the last day of the data; trains the model first if there is none."""
    if find_spec("batch_assets.demo") is None:
        raise ConfigError("The demo's data is not installed with the package: clone the repository and run `make demo` there.")
    from batch_assets.demo import train as training
    from batch_assets.models.registry import Registry
    from batch_assets.models.sandbox import Sandbox
    from batch_assets.orchestration.catalog import pipeline

    config, known = pipeline(training.PIPELINE), registry()
    name, alias = config.model.name, config.model.alias
    with TerminalProgress() as progress:
        if train:
            progress.say(f"Training {name} {train} …")
            with Sandbox() as sandbox:  # it starts while the model is trained
                vetting = Registry(known.storage, sandbox)
                model = training.train(config, vetting, progress, train, training.SEED if seed is None else seed)
            return {"name": name, "version": train, "digest": model.digest}
        if training.VERSION not in known.versions(name):
            progress.say(f"Training {name} {training.VERSION} …")
            with Sandbox() as sandbox:
                training.train(config, Registry(known.storage, sandbox), progress)
        else:
            progress.say(f"Model {name} {training.VERSION} is registered; training is skipped.")
        why, by = "the demo's first model", "batch-assets demo"
        known.approvals(name, alias).log.update(
            lambda latest: latest or known.change_to(name, alias, training.VERSION, why=why, by=by)
        )
        return _run(training.PIPELINE, training.PARTITION, None, refresh=False, as_of=False, progress=progress)


def _show_trained(console: Console, found: dict[str, Any]) -> None:
    name, version = found["name"], found["version"]
    console.print(f"{name} {version} is registered; `batch-assets models approve {name} {version}` puts it to use.")


def _show(console: Console, found: dict[str, Any]) -> None:
    (_show_range if "days" in found else _show_run)(console, found)


def _show_range(console: Console, found: dict[str, Any]) -> None:
    table = Table(title=found["pipeline"], title_justify="left", box=None)
    for name in ("day", "model", "approval", "scored", "dead letters", "seconds", "result"):
        table.add_column(name, justify="right" if name in ("approval", "scored", "dead letters", "seconds") else "left")
    for day in found["days"]:
        counts = [f"{day[name]:,}" if day[name] is not None else "" for name in ("scored_rows", "dead_letter_rows")]
        result = "[green]published[/]" if not day["error"] else f"[red]failed[/] {escape(day['error'])}"
        seconds = f"{day['seconds']:.1f}" if day["seconds"] else ""
        table.add_row(day["partition"], day["model"] or "", str(day["approval"] or ""), *counts, seconds, result)
    console.print(table, soft_wrap=True)
    console.print(f"Live: {found['live_release'] or 'nothing'}.", soft_wrap=True)


def _run_range(
    name: str, first: str, last: str, engine: "EngineName | None", refresh: bool, as_of: bool, progress: TerminalProgress
) -> dict[str, Any]:
    from batch_assets.orchestration.catalog import pipeline
    from batch_assets.orchestration.launch import materialize_days, open_instance
    from batch_assets.serving.live import current_log

    config, root = pipeline(name), storage()
    models = _models(config, config.partitions.between(first, last, name), as_of)
    used = {day: model for day, model in models.items() if not isinstance(model, BatchAssetsError)}
    for model in {model.approval: model for model in used.values()}.values():
        days = [day for day, one in used.items() if one.approval == model.approval]
        progress.say(f"{days[0]} to {days[-1]}: {model.name} {model.version} (approval {model.approval}), {len(days)} day(s).")
    found = []
    with open_instance() as instance:
        for done in materialize_days(config, models, instance, progress, engine=engine, refresh=refresh):
            chosen = used.get(done.day)
            manifest = done.launched.night.manifest() if done.launched else None
            progress.say(f"{done.day}: {done.error or 'published'}")
            found.append(
                {
                    "partition": done.day,
                    "model": chosen.version if chosen else None,
                    "approval": chosen.approval if chosen else None,
                    "run_id": manifest.run_id if manifest else None,
                    "scored_rows": manifest.scored if manifest else None,
                    "dead_letter_rows": manifest.dead_lettered if manifest else None,
                    "seconds": round(sum(done.launched.seconds.values()), 3) if done.launched else None,
                    "error": done.error,
                }
            )
    live = current_log(root, name).latest()
    failed = [str(day["partition"]) for day in found if day["error"]]
    error = {"error": f"{len(failed)} of {len(found)} days failed: {', '.join(failed)}."} if failed else {}
    return {"pipeline": name, "days": found, "live_release": live.body.release if live else None, **error}


@click.command()
@click.argument("pipeline")
@click.option("--partition", metavar="DAY", help="The day to score, YYYY-MM-DD.")
@click.option("--from", "first", metavar="DAY", help="The first of several days, oldest first; with --to.")
@click.option("--to", "last", metavar="DAY", help="The last of several days.")
@click.option("--as-of", is_flag=True, help="Score each day with the version that was approved at its end, not with today's.")
@click.option(
    "--engine", type=click.Choice(["auto", "ray", "spark", "local"]), help="Where to score; by default as the pipeline says."
)
@click.option("--refresh", is_flag=True, help="Compute the features again although the day has a snapshot.")
@verb(_show, uses_ray=True, resumes=True)
def run(
    pipeline: str,
    partition: str | None,
    first: str | None,
    last: str | None,
    as_of: bool,
    engine: "EngineName | None",
    refresh: bool,
) -> dict[str, Any]:
    """Materialize one day of PIPELINE, or several: features, predictions, serving table. Resumes what was begun."""
    if bool(partition) == bool(first or last) or bool(first) != bool(last):
        raise click.UsageError("Say either --partition DAY, or --from DAY --to DAY.")
    with TerminalProgress() as progress:
        if partition:
            return _run(pipeline, partition, engine, refresh, as_of, progress)
        return _run_range(pipeline, str(first), str(last), engine, refresh, as_of, progress)
