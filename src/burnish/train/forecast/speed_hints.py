"""Hints printed before a run: settings that would make it faster."""

import shutil
from dataclasses import replace

from burnish.train.batching.sampler import group_rows
from burnish.train.forecast.forecast import Forecast
from burnish.train.forecast.probe import first_batches
from burnish.train.forward.path import count_tokens
from burnish.train.loop.language_model import LanguageModelModule

#: Saving less than this share of the tokens isn't worth an order that is less shuffled.
_WORTH_IT = 0.2
#: A run of more seconds has time for half a minute of compiling.
_LONG = 900


def speed_hints(module: LanguageModelModule, expected: Forecast) -> list[str]:
    """Return one sentence for each setting that would save time, with how much."""
    if module.settings.parallel != "none":
        return []
    hints = []
    if (
        not module.settings.group_by_prefix
        and (saved := _estimate_grouping_savings(module)) >= _WORTH_IT
    ):
        hints.append(
            f"train.group_by_prefix=true would compute {saved:.0%} fewer tokens: many rows share a "
            "prefix, and those would be in the same step."
        )
    compiles = module.accelerator.device.type == "cpu" and (
        shutil.which("g++") or shutil.which("clang++")
    )
    if compiles and not module.settings.compile and expected.time.expected > _LONG:
        hints.append(
            "train.compile=true takes half a minute and then about a tenth less time for each step."
        )
    return hints


def _estimate_grouping_savings(module: LanguageModelModule) -> float:
    """Return the share of the first steps' tokens that `group_by_prefix` would save."""
    settings = module.settings.model_copy(update={"group_by_prefix": True})
    grouped = replace(module, row_groups=group_rows(module.rows, settings))
    if grouped.row_groups == module.row_groups:
        return 0.0
    before, after = (
        sum(count_tokens(module.language, batch) for batch in first_batches(one))
        for one in (module, grouped)
    )
    return 1 - after / before
