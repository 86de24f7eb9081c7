"""What would make a run faster, counted and said before it begins."""

import shutil
from dataclasses import replace

from burnish.train.batching.sampler import group_rows
from burnish.train.forecast.forecast import Forecast, first_batches
from burnish.train.forward.path import count_tokens
from burnish.train.loop.language_model import LanguageModelModule

#: Less than this share of the tokens is not worth an order that is less shuffled.
_WORTH_IT = 0.2
#: A run of so many seconds has time for half a minute of compiling.
_LONG = 900


def speed_hints(plan: LanguageModelModule, expected: Forecast) -> list[str]:
    """Settings that the recipe doesn't have yet, and what they would save."""
    if plan.settings.parallel != "none":
        return []
    found = []
    if (
        not plan.settings.group_by_prefix
        and (saved := _estimate_grouping_savings(plan)) >= _WORTH_IT
    ):
        found.append(
            f"train.group_by_prefix=true would compute {saved:.0%} fewer tokens: many rows begin "
            "alike, and those would be learnt in one step."
        )
    compiles = plan.accelerator.device.type == "cpu" and (
        shutil.which("g++") or shutil.which("clang++")
    )
    if compiles and not plan.settings.compile and expected.time.expected > _LONG:
        found.append(
            "train.compile=true takes half a minute and then about a tenth less time for each step."
        )
    return found


def _estimate_grouping_savings(plan: LanguageModelModule) -> float:
    """The share of the tokens of the first steps that `group_by_prefix` would spare."""
    settings = plan.settings.model_copy(update={"group_by_prefix": True})
    grouped = replace(plan, row_groups=group_rows(plan.rows, settings))
    if grouped.row_groups == plan.row_groups:
        return 0.0
    before, after = (
        sum(count_tokens(plan.language, some) for some in first_batches(one))
        for one in (plan, grouped)
    )
    return 1 - after / before
