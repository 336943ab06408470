"""Worker processes that share one address, until they are told to stop."""

import os
import socket
import tempfile
from collections.abc import Callable

from batch_assets.errors import ConfigError
from batch_assets.ports import extra
from batch_assets.service.options import OPTIONS, SEVERAL, ServiceOptions, Token

_HEADER_MS = 10_000
_STOP_SECONDS = 15


def serve(options: ServiceOptions, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; what was asked by then is answered.

    Raises:
        ConfigError: others could reach it without a token, or the address is taken.
        MissingExtra: granian is not installed.
    """
    extra("granian", "serve", "batch-assets serve")
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings

    Token(options)  # before a worker says so
    _require_free(options)
    with tempfile.TemporaryDirectory(prefix="batch-assets-metrics-") as counts:
        os.environ[OPTIONS] = options.model_dump_json()
        if options.workers > 1:
            os.environ[SEVERAL] = counts
        server = Granian(
            "batch_assets.service.app:from_environment",
            factory=True,
            address=options.host,
            port=options.port,
            interface=Interfaces.ASGI,
            workers=options.workers,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=_HEADER_MS, max_buffer_size=64 << 10),
            websockets=False,
            backpressure=options.limits.connections,
            workers_kill_timeout=_STOP_SECONDS,
            respawn_failed_workers=True,
            log_access=False,
            process_name=None,
        )
        names = ", ".join(one.name for one in options.pipelines)
        say(f"{names}: http://{options.host}:{options.port} (Ctrl-C ends it)")
        server.serve()


def _require_free(options: ServiceOptions) -> None:
    """Raises ConfigError if somebody listens on the address, or nobody may; workers share it, so they would not notice."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        with socket.create_server((options.host, options.port), family=family):
            pass
    except OSError as error:
        raise ConfigError(f"{options.host}:{options.port} cannot be listened on ({error}): choose another --port.") from error
