"""Serve models over HTTP until told to stop."""

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress

import uvicorn

from burnish.core.errors import BurnishError
from burnish.core.progress import say
from burnish.core.sections import Serve
from burnish.core.settings import workspace
from burnish.engines.fleet import open_fleet
from burnish.serve.app import create_app
from burnish.serve.desk import open_desk
from burnish.serve.guard import LOOPBACK
from burnish.serve.keys import find_key
from burnish.serve.worker import Worker

#: Seconds that open requests get to finish after the signal to stop.
_GRACE = 30


class PortTaken(BurnishError, OSError):
    """The address cannot be listened on."""


def serve(
    sources: Sequence[str],
    settings: Serve | None = None,
    aliases: Mapping[str, str] | None = None,
) -> None:
    """Serve runs, artifact folders and models until SIGINT or SIGTERM; then finish what has begun.

    Says the address, and at the first start the key. Raises NotFound for an unknown source,
    BadRecipe if nothing is named, PortTaken, StoreUnavailable.
    """
    settings = settings or Serve()
    listening = _listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    try:
        worker = Worker(open_desk(settings.store, aliases))
        fleet = open_fleet(sources, aliases)
        key = find_key()
        if key.made:
            say(f"API key, shown once (kept in {workspace() / 'api_key'}): {key.value}")
        # Whoever binds to the network chooses the names; on loopback only loopback's are right.
        hosts = LOOPBACK | {settings.host} if settings.host in LOOPBACK else ()
        app = create_app(fleet, key.value, settings, hosts, worker)
        say(f"Serving {', '.join(fleet.engines)} at {base_url(str(host), port)} (Ctrl-C stops it)")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises it again when all is finished
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def base_url(host: str, port: int) -> str:
    """What to give to a client as `base_url`."""
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise PortTaken(
            f"{host}:{port} cannot be listened on: {error.strerror or error}.",
            "Choose another --port (0 takes a free one).",
        ) from error
