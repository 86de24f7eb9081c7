"""The table of all checks, for the docs."""

from tests.serve.conformance import azure, chat, core, jobs, search
from tests.serve.conformance.registry import CHECKS

assert azure and chat and core and jobs and search, "each puts its checks on the list"

HEAD = """# Conformance

Generated from the code by `make docs`. Every line is a check in `tests/serve/conformance/` that
runs the unmodified `openai` package against a real server, with each class of client that is named:
{n} checks, {runs} runs. Where ours differs, the check is of what ours does.
"""


def conformance_page() -> str:
    """The page: a table an area."""
    runs = sum(len(one.clients) for one in CHECKS)
    parts = [HEAD.format(n=len(CHECKS), runs=runs)]
    for area in dict.fromkeys(one.area for one in CHECKS):
        parts += [f"## {area}", "", "| check | OpenAI | ours | clients |", "|---|---|---|---|"]
        parts += [
            f"| {one.name} | {one.openai} | {one.ours} | {', '.join(one.clients)} |"
            for one in CHECKS
            if one.area == area
        ]
        parts.append("")
    return "\n".join(parts)
