"""Talk to models and serve them: `chat`, `serve`, `key`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from burnish.api.inputs import as_changes
from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Prompt
from burnish.preflight import check_known

if TYPE_CHECKING:
    from burnish.core.recipe.serve import Serve
    from burnish.engines.chat import ChatSession

#: What is served if nothing is named.
DEFAULT_MODEL = "smollm2-135m-instruct"


def chat(
    source: str = "last",
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
) -> ChatSession:
    """Open a conversation with a run, its export, or a model.

    A run speaks with the system message of its training.
    """
    check_known(source)
    from burnish.engines.chat import ChatSession
    from burnish.engines.registry import open_text_engine

    settings = Prompt((), max_new_tokens=max_new_tokens, temperature=temperature)
    return ChatSession(open_text_engine(source), system, settings)


class ServeOptions(TypedDict, total=False):
    """Settings of the server, fields of the recipe's `serve`; `upstream` are `model=url`."""

    host: str | None
    port: int | None
    store: str | None
    executor: str | None
    upstream: Sequence[str]
    python_graders: bool


def serve(
    sources: Sequence[str] = (),
    aliases: Iterable[str] = (),
    best: bool = False,
    self_test: bool = False,
    changes: Iterable[str] = (),
    **options: Unpack[ServeOptions],
) -> None:
    """Serve runs and models over HTTP until stopped; the starter model if nothing is named.

    `aliases` are `name=model`. `best` serves the export of the run that won the last
    `export --for-this-machine` here, under the run's name. `self_test` first proves that adapters
    do not mix. Raises NotFound, BadRecipe, AdapterLeak, PortTaken.
    """
    wanted = [*_upstream_changes(options.pop("upstream", ())), *changes]
    options["python_graders"] = options.get("python_graders") or None  # type: ignore[typeddict-item]
    wanted += as_changes({f"serve.{name}": value for name, value in options.items()})
    named, named_aliases = list(sources), list(aliases)
    if not named and not make_recipe({}, wanted).serve.upstream:
        named = [DEFAULT_MODEL]
    if best:
        from burnish.export.search.winner import resolve_best

        named, named_aliases, measured = resolve_best(named, named_aliases)
        wanted = [*measured, *wanted]
    settings, pairs = make_recipe({}, wanted).serve, _parse_aliases(named_aliases)
    if self_test:
        _check_isolation(named, settings)
    check_known(*(s for s in (*named, *pairs.values()) if s not in settings.upstream))
    from burnish.serve.run import serve as serve_models

    serve_models(named, settings, pairs)


def _upstream_changes(pairs: Iterable[str]) -> list[str]:
    """Return `MODEL=URL` as one change of the recipe, before those that say more of each."""
    table = {model: {"url": url} for model, _, url in (pair.partition("=") for pair in pairs)}
    return [f"serve.upstream={json.dumps(table)}"] if table else []


def _parse_aliases(aliases: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for alias in aliases:
        name, equals, model = alias.partition("=")
        if not (name and equals and model):
            raise BadRecipe(f"`--alias {alias}` is not NAME=MODEL.", "--alias gpt-4o-mini=last")
        pairs[name] = model
    return pairs


def _check_isolation(sources: Sequence[str], settings: Serve) -> None:
    """Prove for each base of `sources` that adapters do not mix. Raises AdapterLeak."""
    from burnish.engines.scheduling.isolation_check import check_isolation

    check_isolation(sources)
    for name in settings.upstream:
        say(f"{name}: served by another server, whose isolation cannot be checked from here.")


class KeyLimits(TypedDict, total=False):
    """What a key may ask: models (or patterns), routes, requests a minute; and its organisation,
    with the bytes and the jobs that it may have at once."""

    models: Sequence[str]
    routes: Sequence[str]
    per_minute: int | None
    organization: str
    most_bytes: int | None
    most_jobs: int | None


@overload
def key(name: None = None) -> list[dict[str, Any]]: ...
@overload
def key(name: str, *, remove: Literal[True]) -> None: ...
@overload
def key(name: str, **limits: Unpack[KeyLimits]) -> str: ...
def key(
    name: str | None = None, remove: bool = False, **limits: Unpack[KeyLimits]
) -> list[dict[str, Any]] | str | None:
    """List the keys of the server, make one and return its value, or remove one.

    A key's value is returned once and kept nowhere; the list is without values. Raises
    AlreadyThere and BadRecipe for a key that can't be made, NotFound for one that isn't there.
    """
    from burnish.serve.auth.keys import ApiKey, open_keys

    keys = open_keys()
    if name is None:
        hidden = "sha256"
        return [
            {field: value for field, value in asdict(one).items() if field != hidden}
            for one in keys.all()
        ]
    if remove:
        keys.remove(name)
        return None
    models, routes = limits.pop("models", ()), limits.pop("routes", ())
    return keys.add(ApiKey(name, "", list(models), list(routes), **limits))  # type: ignore[misc]
