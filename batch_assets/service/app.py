"""The service of one worker: its routes, and what they hand on."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from batch_assets.errors import NoSuchPipeline, Refused
from batch_assets.models.registry import Registry
from batch_assets.service.answers import JsonAnswer
from batch_assets.service.bodies import BatchGet, Score, body_of, key_of, understood
from batch_assets.service.guard import Guard
from batch_assets.service.metrics import Nights, Requests, exposed
from batch_assets.service.openapi import document
from batch_assets.service.options import OPTIONS, ServiceOptions
from batch_assets.service.page import Page
from batch_assets.service.realtime import Realtime
from batch_assets.service.served import Served
from batch_assets.serving.reader import Answer
from batch_assets.storage import open_storage

Found = TypeVar("Found")

_THREADS = 16
"""On which servers are asked, and models and pages are read."""


def from_environment() -> ASGIApp:
    """The application of a worker process, which has its options from the environment.

    What was imported for it lasts as long as the process: the garbage collector does not look through it while people wait.
    """
    found = service(ServiceOptions.model_validate_json(os.environ[OPTIONS]))
    gc.collect()
    gc.freeze()
    return found


def service(options: ServiceOptions) -> ASGIApp:
    """The application that serves some pipelines. Raises ConfigError, and what opening the roots raises."""
    requests = Requests(one.name for one in options.pipelines)
    return Guard(Service(options, requests), options, requests)


class Service:
    """What is answered. Each pipeline is opened when it is asked first."""

    def __init__(self, options: ServiceOptions, requests: Requests) -> None:
        self._options, self._requests = options, requests
        self._storage, self._registry = open_storage(options.root), Registry(open_storage(options.models))
        self._threads = ThreadPoolExecutor(_THREADS, "service")
        self._served = {one.name: Served(one, self._storage, self._threads) for one in options.pipelines}
        self._realtime: dict[str, Realtime] = {}
        self._nights = Nights(self._storage, options.pipelines)
        self._page, self._document = Page(self._storage, self._served), document(options)
        self._router = Router(
            [
                Route("/v1/{pipeline}:batchGet", self.batch_get, methods=["POST"]),
                Route("/v1/{pipeline}:score", self.score, methods=["POST"]),
                Route("/healthz", self.health),
                Route("/readyz", self.ready),
                Route("/metrics", self.metrics),
                Route("/openapi.json", self.openapi),
                Route("/", self.page),
            ],
            redirect_slashes=False,
            default=_nothing,
            lifespan=self._lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Look-ups do not go through the router: they are asked most, and it takes as long as they do."""
        about = (
            scope["path"][4:].partition("/") if scope["type"] == "http" and scope["path"].startswith("/v1/") else ("", "", "")
        )
        if not about[1]:
            await self._router(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            raise Refused("A key is asked for with GET.", 405, {"Allow": "GET, HEAD"})
        found = await self._known(about[0]).lookup(key_of(scope["raw_path"]))
        await JsonAnswer(_plain(found))(scope, receive, send)

    async def batch_get(self, request: Request) -> Response:
        """The predictions of many keys, all of one release, null where there is none."""
        served, limits = self._known(request.path_params["pipeline"]), self._options.limits
        asked: BatchGet = understood(await body_of(request, limits), BatchGet)
        if len(asked.keys) > limits.keys:
            raise Refused(f"At most {limits.keys:,} keys are answered at once, not {len(asked.keys):,}.", 413)
        found = await served.get_many(asked.keys)
        return JsonAnswer({"answers": [None if one is None else _plain(one) for one in found]})

    async def score(self, request: Request) -> Response:
        """The record of a row that is sent, scored now."""
        config = self._known(request.path_params["pipeline"]).config
        settings = config.serve.realtime
        if settings is None:
            raise Refused(f"{config.name} scores nothing by day: its YAML has no serve.realtime.", 404)
        asked: Score = understood(await body_of(request, self._options.limits), Score)
        realtime = self._realtime.get(config.name)
        if realtime is None:
            realtime = self._realtime[config.name] = Realtime(config, settings, self._registry, self._threads)
        return JsonAnswer(await realtime.score(asked.features))

    async def health(self, _: Request) -> Response:
        """Whether the worker is there."""
        return JsonAnswer({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Whether every pipeline can be asked; if not, which one cannot, and why; it needs no token."""
        found = await asyncio.gather(*(one.hindrance() for one in self._served.values()))
        hindered = {name: why for name, why in zip(self._served, found, strict=True) if why}
        return JsonAnswer({"ready": not hindered, "hindered": hindered}, 503 if hindered else 200)

    async def metrics(self, _: Request) -> Response:
        """What Prometheus asks."""
        found = await self._on_thread(lambda: exposed(self._requests, self._nights))
        return Response(found, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, _: Request) -> Response:
        """What can be asked, as OpenAPI says it."""
        return JsonAnswer(self._document)

    async def page(self, request: Request) -> Response:
        """A page for a person."""
        asked = request.query_params
        return await self._on_thread(lambda: self._page.shown(asked.get("pipeline"), asked.getlist("key")))

    def _known(self, name: str) -> Served:
        if name not in self._served:
            raise NoSuchPipeline(f"This service has no pipeline of that name; it has {', '.join(sorted(self._served))}.")
        return self._served[name]

    async def _on_thread(self, work: Callable[[], Found]) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        yield
        await asyncio.gather(*(one.close() for one in self._realtime.values()))
        await asyncio.gather(*(one.close() for one in self._served.values()))
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _nothing(scope: Scope, _receive: Receive, _send: Send) -> None:
    if scope["type"] == "http":
        raise Refused("There is nothing at this path: /openapi.json says what can be asked.", 404)


def _plain(answer: Answer) -> dict[str, Any]:
    return {"key": answer.key, "record": answer.record, "lineage": answer.lineage}
