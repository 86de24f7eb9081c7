"""Does the interval of kappa hold the truth as often as it says? Simulated graders, three methods.

    python benchmarks/kappa_interval.py                    two minutes, alone

Two graders of two grades, with a known true kappa; `asymptotic` is Fleiss, Cohen & Everitt (1969)
as statsmodels has it, `bootstrap` the percentile bootstrap, `ours` the same with one disagreement
more (burnish/evaluate/kappa.py).
"""

import argparse

import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa

from burnish.core.records import Interval
from burnish.evaluate.cohen_kappa import measure_agreement

GRADES = ("right", "wrong")
#: Chances of both right, only the first, only the second, both wrong.
TRUTHS = {
    "like 0.6": (0.40, 0.10, 0.10, 0.40),
    "like 0.6, few wrong": (0.80, 0.05, 0.05, 0.10),
    "like 0.8": (0.50, 0.05, 0.05, 0.40),
    "like 0.95": (0.55, 0.0125, 0.0125, 0.425),
}


def kappa_of(shares: np.ndarray) -> float:
    by_chance = (shares.sum(0) * shares.sum(1)).sum()
    return float((shares.trace() - by_chance) / (1 - by_chance))


def bootstrap(table: np.ndarray, seed: int) -> Interval:
    n = int(table.sum())
    drawn = np.random.default_rng(seed).multinomial(n, table.ravel() / n, 2000)
    kappas = [kappa_of(one / n) for one in drawn.reshape(-1, 2, 2) if one.max() < n]
    low, high = np.quantile(kappas, [0.025, 0.975])
    return Interval(kappa_of(table / n), float(low), float(high), n)


def intervals(table: np.ndarray, seed: int) -> list[Interval]:
    counts = table.astype(int).ravel()
    first = [GRADES[cell // 2] for cell in range(4) for _ in range(counts[cell])]
    second = [GRADES[cell % 2] for cell in range(4) for _ in range(counts[cell])]
    told = cohens_kappa(table)
    asymptotic = Interval(told.kappa, told.kappa_low, told.kappa_upp, int(counts.sum()))
    ours = measure_agreement(first, second, GRADES, seed=seed).kappa
    return [asymptotic, bootstrap(table, seed), ours]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=400)
    draws = parser.parse_args().draws
    random = np.random.default_rng(0)
    print("| true kappa | answers | asymptotic | bootstrap | ours |")
    print("|---|---|---|---|---|")
    for name, chances in TRUTHS.items():
        truth = kappa_of(np.reshape(chances, (2, 2)))
        for n in (50, 100, 200):
            held = np.zeros(3)
            for draw in range(draws):
                table = random.multinomial(n, chances).reshape(2, 2).astype(float)
                found = intervals(table, draw)
                held += [one.low - 1e-9 <= truth <= one.high + 1e-9 for one in found]
            shown = " | ".join(f"{100 * share:.0f} %" for share in held / draws)
            print(f"| {truth:.2f}, {name} | {n} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
