"""Whether a plan is right about nights that it has not seen: made-up nights of some sizes, then plans of others, then these.

    python benchmarks/plan.py                                   # 0.5 to 24 million rows, then 1 to 20: for a quiet machine
    python benchmarks/plan.py --train 100e3 400e3 1e6 --unseen 200e3 600e3 2e6 [--engine local] [--json]
    python benchmarks/plan.py --train 5e5 1e6 2e6 --unseen --keep nights   # leaves them for `batch-assets plan night`

Every night is one of `benchmarks/night.py`, by the command line, in a process of its own. All plans are made after the nights
of `--train`, before the first one of `--unseen`, by what `batch-assets plan` says. A night takes the sum of its stages; what
Python and Dagster need to start and between the stages is in none of them, and the column `command` has it. The memory that was
planned for the process that drives, and what it had of its own, stand last. The last line says how many lie within their 90 %
interval, and the largest error. Nights of fewer and of more rows are made first: from some size
on DuckDB sorts on the disk, which no smaller night can tell; and the very first night has none to be compared with. A night's
first stages read what the night before has left in the page cache, as any night's do.
"""

import argparse
import json
import os
import tempfile
from contextlib import nullcontext
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import night

FIRST = date(2024, 3, 1)
TRAIN = (500_000, 700_000, 2_000_000, 5_000_000, 10_000_000, 16_000_000, 24_000_000)
UNSEEN = (1_000_000, 3_000_000, 7_000_000, 13_000_000, 20_000_000)
SETTINGS = {
    "quality": {"min_days": 30, "changes": {"allow_unchanged": True}},
    "engine": {"price": {"per_hour": 0.4, "spot_per_hour": 0.15, "preemptions_per_hour": 0.05}},
}
"""Nights that differ so much in size are no reason to block one of them; prices that are made up."""


def main() -> None:
    """Make the nights, plan the others, make these, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=_rows, nargs="+", default=list(TRAIN))
    parser.add_argument("--unseen", type=_rows, nargs="*", default=list(UNSEEN))
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--engine", choices=["auto", "ray", "local"], default="auto")
    parser.add_argument("--folder", type=Path, help="where to make the project; by default the system's temporary folder")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make the project there, and leave it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(namespace=argparse.Namespace(text_keys=False, sparse=False))
    with (
        nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory(dir=options.folder, prefix="plan-") as folder
    ):
        project = night.make_project(Path(folder), options, **SETTINGS)
        found = _compared(project, options)
    if not found:
        print(f"{len(options.train)} nights were made, and none is compared.")
        return
    within, worst = sum(one["within"] for one in found), max(abs(one["error"]) for one in found)
    if options.json:
        print(json.dumps({"nights": found, "within": within, "largest_error": worst}, indent=1))
        return
    print(f"{len(options.train)} nights of {', '.join(f'{rows:,}' for rows in options.train)} rows, then:")
    columns = {"rows": 12, "planned, s": 12, "at least": 10, "at most": 10, "took, s": 10, "error": 8, "within": 8}
    print("".join(f"{name:>{width}}" for name, width in (columns | {"command, s": 12, "memory, MB": 18}).items()))
    for one in found:
        planned = "".join(f"{one['planned'][key]:>{width}.1f}" for key, width in (("value", 12), ("low", 10), ("high", 10)))
        said = f"{one['took']:>10.1f}{one['error']:>+8.0%}{'yes' if one['within'] else 'no':>8}{one['command']:>12.1f}"
        memory = " / ".join(f"{size / 1e6:,.0f}" for size in one["memory"])
        print(f"{one['rows']:>12,}{planned}{said}{memory:>18}")
    print(f"{within} of {len(found)} within the 90 % interval; the largest error is {worst:.0%}")


def _compared(project: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    from batch_assets import open_storage
    from batch_assets.nightly.timings import nights_took
    from batch_assets.operations.plan import plan_night
    from batch_assets.orchestration.catalog import pipeline

    config, storage = pipeline("night"), open_storage(str(project / "data"))
    for number, rows in enumerate(options.train):
        _made(project, options.engine, number, rows)
    plans = [plan_night(config, storage, rows) for rows in options.unseen]
    found = []
    for number, (rows, plan) in enumerate(zip(options.unseen, plans, strict=True), start=len(options.train)):
        said = _made(project, options.engine, number, rows)
        took = nights_took(storage, "night", 1)[-1]
        within = plan.total.low <= took.total <= plan.total.high
        found.append(
            {
                "rows": rows,
                "planned": plan.total.model_dump(),
                "took": took.total,
                "error": plan.total.value / took.total - 1,
                "within": within,
                "command": said["wall"],
                "memory": [plan.driver_peak.value if plan.driver_peak else 0.0, max(took.peaks.values())],
                "stages": {stage: [plan.seconds[stage].value, seconds] for stage, seconds in took.seconds.items()},
            }
        )
    return found


def _made(project: Path, engine: str, number: int, rows: int) -> dict[str, Any]:
    night.set_rows(project, rows)
    os.sync()  # nights are a day apart: what one has written is on the disk when the next one begins
    return night.run_night(project, engine, (FIRST + timedelta(days=number)).isoformat())


def _rows(text: str) -> int:
    return int(float(text))


if __name__ == "__main__":
    main()
