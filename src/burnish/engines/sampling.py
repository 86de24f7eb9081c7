"""From logits to one token: greedy, temperature, nucleus."""

import torch

from burnish.core.records import Prompt

#: Below this temperature only the likeliest token has a chance, and logits divided by it overflow.
_COLD = 1e-4


class Sampler:
    """Draws the tokens of one answer. Its own generator makes a seed mean the same in any batch."""

    def __init__(self, prompt: Prompt) -> None:
        self.temperature, self.top_p = prompt.temperature, prompt.top_p
        self.generator = torch.Generator()
        if prompt.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(prompt.seed)

    def pick(self, logits: torch.Tensor) -> int:
        """One token of logits (vocabulary,). Nucleus: Holtzman et al. 2020, arXiv:1904.09751."""
        if self.temperature < _COLD:
            return int(logits.argmax())
        chances = (logits.float().cpu() / self.temperature).softmax(-1)
        if self.top_p >= 1:
            return int(torch.multinomial(chances, 1, generator=self.generator))
        ordered, tokens = chances.sort(descending=True)
        kept = int((ordered.cumsum(-1) - ordered < self.top_p).sum())
        ordered, tokens = ordered[: max(kept, 1)], tokens[: max(kept, 1)]
        drawn = torch.multinomial(ordered, 1, generator=self.generator)
        return int(tokens[drawn])
