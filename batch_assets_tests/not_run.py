"""What a run of the tests has not run, and why: its last lines."""

from collections import defaultdict
from collections.abc import Iterable

import pytest


def not_run(skipped: Iterable[pytest.TestReport]) -> list[str]:
    """A line for each reason: how many tests, of which files."""
    by_reason: dict[str, list[pytest.TestReport]] = defaultdict(list)
    for report in skipped:
        if isinstance(report.longrepr, tuple):  # the file, the line, what was said
            by_reason[report.longrepr[2].removeprefix("Skipped: ")].append(report)
    return [_line(reason, reports) for reason, reports in sorted(by_reason.items())]


def _line(reason: str, reports: list[pytest.TestReport]) -> str:
    files = sorted({report.nodeid.partition("::")[0] for report in reports})
    return f"not run: {len(reports)} test{'s' * (len(reports) > 1)} of {', '.join(files)}: {reason}"
