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
from burnish.serve.read_timeouts import TimedH11Protocol
from burnish.serve.store.workspace import open_workspace

#: Seconds that open requests get to finish after the signal to stop.
_SHUTDOWN_SECONDS = 30


class PortTaken(BurnishError, OSError):
    """The address is in use or unavailable."""


def serve(
    sources: Sequence[str],
    settings: Serve | None = None,
    aliases: Mapping[str, str] | None = None,
) -> None:
    """Serve runs, artifact folders and models until SIGINT or SIGTERM; then finish open requests.

    Reports the address, and at the first start the key. Raises NotFound for an unknown source,
    BadRecipe without any source, PortTaken, StoreUnavailable, Unavailable (the executor), and
    SandboxUnavailable if Python graders are allowed and this machine has no sandbox for them.
    """
    settings = settings or Serve()
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    with ExitStack() as stack:
        stack.callback(listener.close)
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
        model_pool = _open_model_pool(sources, aliases or {}, settings)
        stack.callback(model_pool.close)
        keys = open_keys()
        if value := keys.make_first():
            say(f"API key, shown once (only its hash is stored): {value}")
        # On loopback only its own names are valid; on a network the operator chooses the names.
        hosts = LOOPBACK | {settings.host} if settings.host in LOOPBACK else ()
        app = create_app(model_pool, keys, settings, hosts, worker)
        served = ", ".join([*model_pool.engines, *Embedders(aliases or {}).names()])
        say(f"Serving {served} at {base_url(str(host), port)} (Ctrl-C stops it)")
        config = uvicorn.Config(
            app,
            http=TimedH11Protocol,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises it again when all is finished
            uvicorn.Server(config).run(sockets=[listener])


def _open_model_pool(
    sources: Sequence[str], aliases: Mapping[str, str], settings: Serve
) -> ModelPool:
    """Open the generating models; embedding models are loaded on first use."""
    upstream = open_upstreams(settings.upstream)
    others = {model.name for model in list_embedders()} | set(upstream)
    local_aliases = {name: model for name, model in aliases.items() if model not in others}
    local_sources = [source for source in sources if source not in others]
    model_pool = ModelPool({}, {})
    if local_sources or local_aliases or not (sources or upstream):
        model_pool = open_model_pool(local_sources, local_aliases, _launch_options(settings))
    upstream |= {name: upstream[model] for name, model in aliases.items() if model in upstream}
    if ambiguous := model_pool.engines.keys() & upstream:
        raise BadRecipe(f"`{min(ambiguous)}` would name two models.", "Rename one of them.")
    model_pool.engines.update(upstream)
    return model_pool


def _launch_options(settings: Serve) -> LaunchOptions:
    """Return the options for the processes of exported folders."""
    return LaunchOptions(
        threads=settings.engine_threads,
        context=settings.engine_context,
        slots=settings.engine_slots,
        cache=settings.engine_cache,
    )


def base_url(host: str, port: int) -> str:
    """Return the `base_url` for clients."""
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise PortTaken(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            "Choose another --port (0 takes a free one).",
        ) from error
