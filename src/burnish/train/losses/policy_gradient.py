"""Policy-gradient losses: pure functions of rewards and of the log-probabilities of tokens.

All are natural logarithms in float32, of shape (tokens,) where no other shape is given.
"""

import torch

#: Keeps the division by a standard deviation finite, as in TRL.
_LEAST = 1e-4


def group_advantages(rewards: torch.Tensor, scale: bool) -> torch.Tensor:
    """Return (groups, answers) the advantages of rewards of that shape: each reward minus its
    group's mean, divided by the group's standard deviation with `scale` (Shao et al. 2024,
    arXiv:2402.03300, section 4.1.2), undivided without (Liu et al. 2025, arXiv:2503.20783)."""
    centered = rewards - rewards.mean(1, keepdim=True)
    return centered / (rewards.std(1, keepdim=True) + _LEAST) if scale else centered


def clipped_surrogate(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    clip: tuple[float, float],
) -> torch.Tensor:
    """Return the clipped surrogate loss of each token (Schulman et al. 2017, arXiv:1707.06347,
    equation 7). `old` are the log-probabilities when the answers were sampled; `clip` is how far
    the ratio may move down and up."""
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - clip[0], 1 + clip[1])
    return -torch.min(ratio * advantages, clipped * advantages)


def estimate_kl(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return an unbiased, positive estimate of KL(model, reference) at each sampled token (Schulman
    2020, `k3`; Shao et al. 2024, equation 4)."""
    log_ratio = reference - logprobs
    return log_ratio.exp() - log_ratio - 1
