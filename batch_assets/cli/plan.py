"""`plan`: what a night will take before it begins, and whether earlier plans were right."""

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch_assets.cli.terminal import storage, verb

if TYPE_CHECKING:
    from batch_assets.operations.plan import Plan

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class _Duration(click.ParamType[float]):
    """A length of time as people write it: 6h, 90m, 1h30m, 45s."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([hms])", value)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        if "".join(number + unit for number, unit in parts) != value or not 0 < seconds < math.inf:
            self.fail(f"{value!r} is no length of time: write it like 6h, 90m or 1h30m.", param, ctx)
        return seconds


class _Count(click.ParamType[int]):
    """A whole number that may be written as 500e6."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = float(str(value).replace(",", "").replace("_", ""))
        except ValueError:
            number = math.nan
        if not 1 <= number < math.inf or number != int(number):
            self.fail(f"{value!r} is no number of rows: write it like 500e6 or 230000000.", param, ctx)
        return int(number)


class _Amount(click.FloatRange):
    """A number in a range that is neither endless nor `nan`, which click would take."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value!r} is no number: write it like 50 or 0.5.", param, ctx)
        return found


def _unit(seconds: float) -> tuple[str, float]:
    """In which unit people read such times."""
    return ("h", 3600.0) if seconds >= 5400 else ("min", 60.0) if seconds >= 90 else ("s", 1.0)


def _show(console: Console, found: dict[str, Any]) -> None:
    if "compared" in found:
        _show_check(console, found)
        return
    several = "machines" if found["workers_are"] else "workers"
    workers = f"{found['workers']:,} {'worker' if found['workers'] == 1 else several}"
    said = f"{found['rows']:,} rows with {workers}"
    if found["pipeline"]:
        nights = f"{found['nights']} {'night' if found['nights'] == 1 else 'nights'} of up to {found['largest']:,} rows"
        said = f"{found['pipeline']}: {said} ({found['engine'].partition(', because ')[0]}), by {nights}"
    console.print(escape(said), style="italic", soft_wrap=True)
    console.print(_stages(found))
    if found["pipeline"] or found["cost"]:
        console.print(_amounts(found))
    for sentence in _sentences(found):
        console.print(sentence, soft_wrap=True)


def _share(share: float) -> str:
    """How much of something is needed; how many times of nearly nothing says nobody anything."""
    return f"{share:.0%}" if share < 10 else "1000% or more"


def _stages(found: dict[str, Any]) -> Table:
    unit, seconds = _unit(found["total"]["value"])
    table = Table(box=None)
    for name in ("stage", f"expected, {unit}", f"at least, {unit}", f"at most, {unit}", "share"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage, one in {**found["seconds"], "total": found["total"]}.items():
        bounds = (f"{one[key] / seconds:,.2f}" for key in ("value", "low", "high"))
        table.add_row(stage, *bounds, f"{one['value'] / found['total']['value']:.0%}", style="bold" if stage == "total" else "")
    return table


def _amounts(found: dict[str, Any]) -> Table:
    table = Table(box=None)
    for name in ("", "expected", "at least", "at most"):
        table.add_column(name, justify="right" if name else "left")
    if found["driver_peak"]:
        bounds = (f"{found['driver_peak'][key] / 1e6:,.0f}" for key in ("value", "low", "high"))
        table.add_row("memory of the process that drives, MB", *bounds)
    for name, size in found["sizes"].items():
        table.add_row(f"{name}, MB", f"{size / 1e6:,.1f}", "", "")
    if found["cost"]:
        spot = found["cost"]["spot"]
        for name, one in (("on demand", found["cost"]["on_demand"]), ("on spot", spot and spot["cost"])):
            if one:
                digits = 2 if one["value"] >= 1 else 4
                bounds = (f"{one[key]:,.{digits}f}" for key in ("value", "low", "high"))
                table.add_row(f"workers {name}, {found['cost']['currency']}", *bounds)
    return table


def _sentences(found: dict[str, Any]) -> list[str]:
    """What people are told below the tables."""
    said = []
    if found["seconds_a_worker"]:
        said.append(f"{found['seconds_a_worker']:,.0f} s a worker (GPU) = {found['seconds_a_worker'] / 3600:.1f} h.")
    said += [escape(found["workers_are"])] if found["workers_are"] else []
    spot = found["cost"]["spot"] if found["cost"] else None
    if spot:
        extra, lost = spot["extra_seconds"]["value"], spot["lost_seconds"]
        said.append(
            f"On spot {spot['preemptions']:,.3g} workers are taken away, each loses {lost:,.0f} s: {extra:,.0f} s longer."
        )
    said += [f"{escape(name)} keeps its release elsewhere, its size is not known here." for name in found["elsewhere"]]
    shares = {"memory": "of this machine's memory", "disk": "of what is free under the root", "deadline": "of the deadline"}
    needs = [f"{_share(share)} {shares[name]}" for name, share in found["shares"].items()]
    if needs and found["pipeline"]:
        first = max(found["shares"], key=lambda name: found["shares"][name])
        said.append(f"At most {', '.join(needs)} {'is' if len(needs) == 1 else 'are'} needed: the {first} gives out first.")
    if found["unmeasured"]:
        said.append(f"[yellow]Not measured yet, so not counted: {', '.join(found['unmeasured'])}.[/]")
    if found["is_far"]:
        said.append(f"[yellow]No night had more than {found['largest']:,} rows: of {found['rows']:,} this is a guess.[/]")
    played = found["simulated"]
    if played:
        unit, seconds = _unit(played["median"])
        ends = f"{played['low'] / seconds:,.2f} to {played['high'] / seconds:,.2f} {unit}"
        held = "" if played["fits"] is None else f"; {played['fits']:.1%} hold the deadline"
        said.append(f"{played['nights']:,} played nights: {played['median'] / seconds:,.2f} {unit}, 90 % take {ends}{held}.")
        said += [f"The picture: {escape(played['picture'])}"] if played["picture"] else []
    if found["sentence"]:
        said.append(f"[{'green' if found['fits'] else 'red'}]{found['sentence']}[/]")
    return said


def _show_check(console: Console, found: dict[str, Any]) -> None:
    unit, seconds = _unit(max(one["took"] for one in found["compared"]))
    table = Table(box=None)
    for name in (
        "night",
        "rows",
        "nights before",
        f"planned, {unit}",
        "at least",
        "at most",
        f"took, {unit}",
        "error",
        "within",
    ):
        table.add_column(name, justify="left" if name in ("night", "within") else "right")
    for one in found["compared"]:
        bounds = (f"{one['planned'][key] / seconds:,.2f}" for key in ("value", "low", "high"))
        within = "[green]yes[/]" if one["within"] else "[red]no[/]"
        took = f"{one['took'] / seconds:,.2f}"
        table.add_row(one["day"], f"{one['rows']:,}", str(one["before"]), *bounds, took, f"{one['error']:+.0%}", within)
    console.print(table)
    console.print(f"{found['within']} of {len(found['compared'])} nights within the interval, which is to hold 90 %.")


def _checked(pipeline: str, last: int) -> dict[str, Any]:
    from batch_assets.operations.plan_check import check_plans, is_off
    from batch_assets.orchestration.catalog import pipeline as known

    compared = check_plans(known(pipeline), storage(), last)
    within = sum(one.within for one in compared)
    rows = [{**asdict(one), "planned": one.planned.model_dump(), "within": one.within, "error": one.error} for one in compared]
    error = f"Plans of {pipeline} are off: {within} of {len(compared)} nights lie within what was planned."
    return {"compared": rows, "within": within, **({"error": error} if is_off(compared) else {})}


def _price(workers: int, per_hour: float | None, spot: float | None, preemptions: float | None) -> Any:
    from pydantic import ValidationError

    from batch_assets.engines.engine import Price

    if per_hour is None:
        if spot is not None or preemptions is not None:
            raise click.UsageError("--spot-per-hour and --preemptions-per-hour come beside --per-hour.")
        return None
    said = {"spot_per_hour": spot * workers if spot is not None else None, "preemptions_per_hour": preemptions}
    try:
        return Price(per_hour=per_hour * workers, **said)
    except ValidationError:
        raise click.UsageError("--spot-per-hour and --preemptions-per-hour need each other.") from None


def _played(plan: "Plan", price: Any, nights: int, seed: int, picture: Path | None) -> dict[str, Any]:
    from batch_assets.operations.simulation import played_of, simulate

    played = played_of(plan, price)
    found = simulate(played, nights, seed)
    if picture is not None:
        from batch_assets.pictures.nights import plot_played

        begin, night = found.median.before, found.median
        rows = [(span.worker, begin + span.start, begin + span.end, span.kind) for span in night.spans]
        title = f"{plan.pipeline or 'A night'}: {plan.rows:,} rows, {plan.workers:,} workers, {nights:,} nights"
        picture.write_bytes(plot_played(title, rows, night.total, found.totals, plan.deadline))
    return {
        "nights": nights,
        "seed": seed,
        "mean": sum(found.totals) / nights,
        "median": found.quantile(0.5),
        "low": found.quantile(0.05),
        "high": found.quantile(0.95),
        "preemptions": found.preemptions,
        "fits": found.fits(plan.deadline) if plan.deadline else None,
        "picture": str(picture) if picture else None,
    }


@click.command()
@click.argument("pipeline", required=False)
@click.option("--rows", type=_Count(), help="How many rows, like 500e6; by default as many as the last night had.")
@click.option("--deadline", type=_Duration(), help="How long it may take, like 6h or 90m.")
@click.option(
    "--workers",
    "--gpus",
    "workers",
    type=click.IntRange(min=1),
    help="How many; by default as last night. Of threads: machines.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Without PIPELINE: rows of a batch.")
@click.option("--batch-ms", type=_Amount(min=0, min_open=True), help="Without PIPELINE: how long one takes a worker.")
@click.option("--per-hour", type=_Amount(min=0, min_open=True), help="Without PIPELINE: what a worker costs in an hour.")
@click.option("--spot-per-hour", type=_Amount(min=0, min_open=True), help="Without PIPELINE: the same on spot.")
@click.option("--preemptions-per-hour", type=_Amount(min=0), help="Without PIPELINE: how often a spot worker is lost.")
@click.option("--check", is_flag=True, help="Compare the last nights of PIPELINE with what was planned of them.")
@click.option("--last", type=click.IntRange(min=1), default=14, show_default=True, help="From, or of, how many nights.")
@click.option("--simulate", type=click.IntRange(min=1), metavar="NIGHTS", help="Play so many nights.")
@click.option("--seed", type=int, default=0, help="With which random numbers.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw the played nights (SVG)."
)
@verb(_show)
def plan(
    pipeline: str | None,
    rows: int | None,
    deadline: float | None,
    workers: int | None,
    batch_size: int | None,
    batch_ms: float | None,
    per_hour: float | None,
    spot_per_hour: float | None,
    preemptions_per_hour: float | None,
    check: bool,
    last: int,
    simulate: int | None,
    seed: int,
    picture: Path | None,
) -> dict[str, Any]:
    """Say what a night of PIPELINE will take by what its last nights took; exit status 1 if a deadline is not held.

    Without PIPELINE it takes explicit figures: --rows, --batch-size, --batch-ms and --gpus.
    """
    from batch_assets.operations.plan import Figures, plan_figures, plan_night

    figures = {"--batch-size": batch_size, "--batch-ms": batch_ms}
    prices = (per_hour, spot_per_hour, preemptions_per_hour)
    if picture is not None and simulate is None:
        raise click.UsageError("--picture draws played nights: it needs --simulate.")
    if pipeline is None:
        if check or rows is None or workers is None or batch_size is None or batch_ms is None:
            raise click.UsageError("Say a PIPELINE, or --rows, --batch-size, --batch-ms and --gpus.")
        price = _price(workers, *prices)
        found = plan_figures(Figures(batch_size, batch_ms / 1000), rows, workers, deadline, price)
    else:
        extra = [name for name, value in figures.items() if value is not None]
        if extra or any(value is not None for value in prices):
            raise click.UsageError("A PIPELINE has its own rates, and its prices in engine.price: leave explicit figures out.")
        if check:
            return _checked(pipeline, last)
        from batch_assets.orchestration.catalog import pipeline as known

        config = known(pipeline)
        price = config.engine.price
        found = plan_night(config, storage(), rows, workers, deadline, last)
    played = _played(found, price, simulate, seed, picture) if simulate else None
    error = {"error": found.sentence()} if found.fits is False else {}
    return {
        **found.model_dump(mode="json"),
        "fits": found.fits,
        "is_far": found.is_far,
        "seconds_a_worker": None if pipeline else found.seconds["scoring"].value,
        "workers_are": found.workers_are(),
        "sentence": found.sentence(),
        "simulated": played,
        **error,
    }
