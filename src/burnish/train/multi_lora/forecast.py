"""The forecast of several adapters trained together: each is probed alone, then added up."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from burnish.core.atomic import write_json
from burnish.train.distributed.process_group import SINGLE
from burnish.train.forecast.forecast import Forecast, check_fits, forecast
from burnish.train.forecast.memory_claims import Quantity, gather_claims
from burnish.train.forecast.probe import probe
from burnish.train.multi_lora.member import LoraMember

#: The joint run takes at least this share of the time of all runs one after another.
_FASTEST = 0.4


def forecast_together(members: Sequence[tuple[LoraMember, Path]]) -> None:
    """Probe every member and write each one's forecast to its run's folder.

    Raises DoesNotFit if all together find no memory or no disk.
    """
    probes, single = [], []
    for module, folder in members:
        module.segments.use_only(module.name)
        probes.append(probe(module, folder))
        single.append(forecast(module, probes[-1]))
    baseline = max(measured.baseline for measured in probes)
    peak = baseline + sum(measured.run_peak - measured.baseline for measured in probes)
    memory = Quantity("peak memory", "bytes", 0.92 * baseline, peak, 1.1 * peak)
    for (module, folder), alone in zip(members, single, strict=True):
        # Until this one ends, the others train beside it, or have ended before.
        shares = [min(1.0, module.steps / other.steps) for other, _ in members]
        low, expected, high = (
            sum(share * getattr(one.time, bound) for share, one in zip(shares, single, strict=True))
            for bound in ("low", "expected", "high")
        )
        time = Quantity("training time", "seconds", _FASTEST * low, expected, high)
        more_checkpoints = module.settings.keep_checkpoints * alone.disk.low
        disk = replace(alone.disk, high=alone.disk.high + more_checkpoints)
        joint = Forecast(memory, time, disk, gather_claims(SINGLE, memory))
        write_json(folder / "forecast.json", joint.as_list())
    check_fits(max(probes, key=lambda measured: measured.run_peak), joint, folder)
