"""Learning from rewards: pure functions of rewards and of the log-probabilities of tokens.

All are natural logarithms in float32; of shape (tokens,) unless said otherwise.
"""

import torch

#: Keeps the division by a standard deviation finite, as in TRL.
_LEAST = 1e-4


def group_advantages(rewards: torch.Tensor, scale: bool) -> torch.Tensor:
    """(groups, answers) of rewards → how far each is above its group's mean, in the group's
    standard deviations with `scale` (Shao et al. 2024, arXiv:2402.03300, section 4.1.2); without,
    in rewards (Liu et al. 2025, arXiv:2503.20783)."""
    above = rewards - rewards.mean(1, keepdim=True)
    return above / (rewards.std(1, keepdim=True) + _LEAST) if scale else above


def clipped_surrogate(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    clip: tuple[float, float],
) -> torch.Tensor:
    """The clipped surrogate of a token (Schulman et al. 2017, arXiv:1707.06347, equation 7), to be
    made small. `old` are the log-probabilities when the answers were drawn; `clip` is how far the
    ratio may move down and up."""
    ratio = (logprobs - old).exp()
    held = ratio.clamp(1 - clip[0], 1 + clip[1])
    return -torch.min(ratio * advantages, held * advantages)


def estimate_kl(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """An unbiased, positive estimate of KL(model, reference) at a drawn token (Schulman 2020,
    `k3`; Shao et al. 2024, equation 4)."""
    behind = reference - logprobs
    return behind.exp() - behind - 1
