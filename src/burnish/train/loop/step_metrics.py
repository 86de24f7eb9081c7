"""What a step, or a validation, comes to: its mean loss and the means of what else is measured."""

from collections import defaultdict

from burnish.train.distributed.process_group import ProcessGroup
from burnish.train.objectives.registry import BatchLoss


class MetricMeans:
    """Sums over micro-batches, divided once at the end."""

    def __init__(self, weight: float) -> None:
        self.weight, self.loss = weight, 0.0
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, judgement: BatchLoss) -> None:
        """Add one micro-batch."""
        self.loss += float(judgement.loss.detach())
        for name, values in judgement.metrics.items():
            self.sums[name] += float(values.sum())
            self.counts[name] += len(values)

    def reduce(self, team: ProcessGroup) -> "MetricMeans":
        """The sums of all processes."""
        if team.size == 1:
            return self
        whole = MetricMeans(self.weight)
        for loss, sums, counts in team.gather((self.loss, dict(self.sums), dict(self.counts))):
            whole.loss += loss
            for name, count in counts.items():
                whole.sums[name] += sums[name]
                whole.counts[name] += count
        return whole

    def as_dict(self) -> dict[str, float]:
        """`loss`, and by name what was measured; what no row was about is left out."""
        found = {name: self.sums[name] / count for name, count in self.counts.items() if count}
        if {"rewards/chosen", "rewards/rejected"} <= found.keys():
            found["rewards/margin"] = found["rewards/chosen"] - found["rewards/rejected"]
        return {"loss": self.loss / self.weight, **found}
