"""Mean loss and mean metrics of a step or a validation."""

from collections import defaultdict

from burnish.train.distributed.process_group import ProcessGroup
from burnish.train.losses.batch_loss import BatchLoss


class MetricMeans:
    """Sums over micro-batches, divided once at the end; `weight` is the loss's denominator."""

    def __init__(self, weight: float) -> None:
        self.weight, self.loss = weight, 0.0
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, batch_loss: BatchLoss) -> None:
        """Add one micro-batch."""
        self.loss += float(batch_loss.loss.detach())
        for name, values in batch_loss.metrics.items():
            self.sums[name] += float(values.sum())
            self.counts[name] += len(values)

    def reduce(self, process_group: ProcessGroup) -> "MetricMeans":
        """Return the sums over all processes."""
        if process_group.size == 1:
            return self
        total = MetricMeans(self.weight)
        gathered = process_group.gather((self.loss, dict(self.sums), dict(self.counts)))
        for loss, sums, counts in gathered:
            total.loss += loss
            for name, count in counts.items():
                total.sums[name] += sums[name]
                total.counts[name] += count
        return total

    def as_dict(self) -> dict[str, float]:
        """Return `loss` and the metrics by name; a metric without a value is left out."""
        means = {name: self.sums[name] / count for name, count in self.counts.items() if count}
        if {"rewards/chosen", "rewards/rejected"} <= means.keys():
            means["rewards/margin"] = means["rewards/chosen"] - means["rewards/rejected"]
        return {"loss": self.loss / self.weight, **means}
