"""What several adapters trained together will need: each is rehearsed alone, and added up."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from burnish.core.atomic import write_json
from burnish.train.distributed.process_group import SINGLE
from burnish.train.forecast.forecast import Forecast, check_fits, forecast, probe
from burnish.train.forecast.memory_claims import Quantity, gather_claims
from burnish.train.multi_lora.member import LoraMember

#: A pass over all is at best this much quicker than theirs one after another.
_QUICKEST = 0.4


def forecast_together(members: Sequence[tuple[LoraMember, Path]]) -> None:
    """Rehearse every member, by its plan and its run's folder, and write each one's forecast.

    Raises DoesNotFit if all together find no memory or no disk.
    """
    seen, alone = [], []
    for plan, folder in members:
        plan.segments.use_only(plan.name)
        seen.append(probe(plan, folder))
        alone.append(forecast(plan, seen[-1]))
    resting = max(one.baseline for one in seen)
    peak = resting + sum(one.run_peak - one.baseline for one in seen)
    memory = Quantity("peak memory", "bytes", 0.92 * resting, peak, 1.1 * peak)
    for (plan, folder), own in zip(members, alone, strict=True):
        # Until it ends, the others learn beside it, or have ended before.
        shares = [min(1.0, plan.steps / other.steps) for other, _ in members]
        low, expected, high = (
            sum(share * getattr(one.time, bound) for share, one in zip(shares, alone, strict=True))
            for bound in ("low", "expected", "high")
        )
        time = Quantity("training time", "seconds", _QUICKEST * low, expected, high)
        disk = replace(own.disk, high=own.disk.high + plan.settings.keep_checkpoints * own.disk.low)
        whole = Forecast(memory, time, disk, gather_claims(SINGLE, memory))
        write_json(folder / "forecast.json", whole.as_list())
    check_fits(max(seen, key=lambda one: one.run_peak), whole, folder)
