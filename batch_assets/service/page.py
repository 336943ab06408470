"""The page for a person: type a key, see its record, where it came from, what it was before, and the last releases.

It is whole as it comes: no scripts, nothing from elsewhere, and the browser is told so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from starlette.responses import HTMLResponse, Response

from batch_assets.errors import BatchAssetsError, NoPrediction
from batch_assets.operations.releases import ReleaseState, list_releases
from batch_assets.service.served import Served
from batch_assets.serving.reader import Answer, Reader
from batch_assets.serving.release import in_stores
from batch_assets.storage import Storage

_RELEASES = 7
"""So many are shown."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Shown:
    """What the page says of a pipeline, and of a key if one was asked for."""

    pipelines: tuple[str, ...]
    pipeline: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    answer: Answer | None
    earlier: Answer | None
    fields: tuple[tuple[str, str, str], ...]
    releases: tuple[ReleaseState, ...]
    problem: str
    missed: str


class Page:
    """Makes the page; a call may wait for a disk or a server."""

    def __init__(self, storage: Storage, served: Mapping[str, Served]) -> None:
        self._storage, self._served = storage, served
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["number"] = "{:,}".format
        environment.filters["minute"] = _minute
        self._template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))

    def shown(self, pipeline: str | None, key: Sequence[str]) -> Response:
        """The page of a pipeline, by default the first, and of a key, unless none is said."""
        name = pipeline if pipeline is not None and pipeline in self._served else next(iter(self._served))
        found = self._found(self._served[name], tuple(one.strip() for one in key))
        status = 200 if not (found.problem or found.missed) else 404 if found.missed else 503
        return HTMLResponse(self._template.render(page=found), status, _HEADERS)

    def _found(self, served: Served, key: tuple[str, ...]) -> Shown:
        config = served.config
        columns = tuple(one.name for one in config.features.contract.key)
        asked = bool(key) and all(key)
        answer = earlier = None
        releases, problem, missed = tuple[ReleaseState, ...](), "", ""
        try:
            releases = tuple(list_releases(config, self._storage)[:_RELEASES])
            if asked:
                answer = served.open().lookup(*key)
                earlier = self._earlier(config.name, answer, releases, key)
        except NoPrediction as error:
            missed = str(error)
        except BatchAssetsError as error:
            problem = str(error)
        shown = key if len(key) == len(columns) else ("",) * len(columns)
        fields = _fields(answer, earlier)
        return Shown(tuple(self._served), config.name, columns, shown, answer, earlier, fields, releases, problem, missed)

    def _earlier(self, pipeline: str, answer: Answer, releases: Sequence[ReleaseState], key: Sequence[str]) -> Answer | None:
        """What the newest older day says of a key that nobody went back from, if a store still has it."""
        for state in releases:
            if state.partition < str(answer.record["partition"]) and state.state != "withdrawn":
                for release in in_stores(self._storage, pipeline, state.release):
                    reader = Reader.of_release(self._storage, release)
                    try:
                        return reader.get(tuple(key))
                    finally:
                        reader.close()
        return None


def _fields(answer: Answer | None, earlier: Answer | None) -> tuple[tuple[str, str, str], ...]:
    """Name, value and earlier value of each field of a record; nothing where nobody knows."""
    if answer is None:
        return ()
    before = earlier.record if earlier else {}
    return tuple((name, _said(value), _said(before[name]) if name in before else "") for name, value in answer.record.items())


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_said, value)) if isinstance(value, list) else str(value)


def _minute(moment: str | None) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M}" if moment else ""
