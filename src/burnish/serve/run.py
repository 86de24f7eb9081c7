"""Serve models over HTTP until told to stop."""

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress

import uvicorn

from burnish.core.errors import BadRecipe, BurnishError
from burnish.core.executors.executor import open_executor
from burnish.core.progress import say
from burnish.core.recipe.serve import Serve
from burnish.core.settings import workspace
from burnish.engines.external.base import LaunchOptions
from burnish.engines.remote.upstream import open_upstreams
from burnish.engines.scheduling.model_pool import ModelPool, open_model_pool
from burnish.evaluate.sandbox.self_test import run_self_test, secrets_of
from burnish.models.local_models import list_embedders
from burnish.serve.app import create_app
from burnish.serve.auth.keys import open_keys
from burnish.serve.fine_tuning.worker import JobWorker
from burnish.serve.inference.embeddings import Embedders
from burnish.serve.middleware.guard import LOOPBACK
from burnish.serve.store.workspace import open_workspace

#: Seconds that open requests get to finish after the signal to stop.
_SHUTDOWN_SECONDS = 30


class PortTaken(BurnishError, OSError):
    """The address cannot be listened on."""


def serve(
    sources: Sequence[str],
    settings: Serve | None = None,
    aliases: Mapping[str, str] | None = None,
) -> None:
    """Serve runs, artifact folders and models until SIGINT or SIGTERM; then finish what has begun.

    Says the address, and at the first start the key. Raises NotFound for an unknown source,
    BadRecipe if nothing is named, PortTaken, StoreUnavailable, Unavailable (the executor);
    SandboxUnavailable if Python graders are allowed and nothing here can hold them.
    """
    settings = settings or Serve()
    listening = _listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    with ExitStack() as stack:
        stack.callback(listening.close)
        executor = open_executor(settings.executor, settings.executor_cpus)
        executor.check()
        if settings.python_graders:
            say("Attacking the sandbox of python graders before it is used")
            run_self_test(secrets_of(workspace()))
        worker = JobWorker(
            open_workspace(settings.store, aliases),
            executor,
            python_graders=settings.python_graders,
        )
        fleet = _open_model_pool(sources, aliases or {}, settings)
        stack.callback(fleet.close)
        keys = open_keys()
        if value := keys.make_first():
            say(f"API key, shown once (only its hash is kept): {value}")
        # Whoever binds to the network chooses the names; on loopback only loopback's are right.
        hosts = LOOPBACK | {settings.host} if settings.host in LOOPBACK else ()
        app = create_app(fleet, keys, settings, hosts, worker)
        served = ", ".join([*fleet.engines, *Embedders(aliases or {}).names()])
        say(f"Serving {served} at {base_url(str(host), port)} (Ctrl-C stops it)")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_SHUTDOWN_SECONDS
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises it again when all is finished
            uvicorn.Server(config).run(sockets=[listening])


def _open_model_pool(
    sources: Sequence[str], aliases: Mapping[str, str], settings: Serve
) -> ModelPool:
    """What answers in words; embedding models are opened when they are first asked."""
    upstream = open_upstreams(settings.upstream)
    elsewhere = {model.name for model in list_embedders()} | set(upstream)
    spoken = {name: model for name, model in aliases.items() if model not in elsewhere}
    named = [source for source in sources if source not in elsewhere]
    fleet = ModelPool({}, {})
    if named or spoken or not (sources or upstream):
        fleet = open_model_pool(named, spoken, _launch_options(settings))
    more = {name: upstream[model] for name, model in aliases.items() if model in upstream}
    if twice := fleet.engines.keys() & {**upstream, **more}:
        raise BadRecipe(f"`{min(twice)}` would name two models.", "Name one of them otherwise.")
    fleet.engines.update({**upstream, **more})
    return fleet


def _launch_options(settings: Serve) -> LaunchOptions:
    """How the processes of exported folders are started."""
    return LaunchOptions(
        threads=settings.engine_threads,
        context=settings.engine_context,
        slots=settings.engine_slots,
        cache=settings.engine_cache,
    )


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
