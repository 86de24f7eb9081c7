"""Preference losses: pure functions of the log-probabilities of answers.

All take natural logarithms in float32 or float64, of shape (rows,), and return one loss for each
row; the caller takes the mean over the rows of a step. `chosen` and `rejected` are those of whole
answers, or their mean over tokens where it says so; a log-ratio is a log-probability minus that of
the reference, the model before training.
"""

import torch
from torch.nn.functional import logsigmoid


def dpo_sigmoid(margin: torch.Tensor, beta: float, smoothing: float = 0.0) -> torch.Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, equation 7).

    margin: log-ratio of the chosen answer minus that of the rejected one. With `smoothing`, that
    share of the pairs is assumed to be swapped (conservative DPO, Mitchell 2023).
    """
    right, wrong = logsigmoid(beta * margin), logsigmoid(-beta * margin)
    return -(1 - smoothing) * right - smoothing * wrong


def dpo_hinge(margin: torch.Tensor, beta: float) -> torch.Tensor:
    """The hinge of SLiC-HF (Zhao et al. 2023, arXiv:2305.10425) on the margin of DPO."""
    return torch.relu(1 - beta * margin)


def ipo(margin: torch.Tensor, beta: float) -> torch.Tensor:
    """Identity preference optimisation (Azar et al. 2023, arXiv:2310.12036, equation 17).

    margin: as above, but of log-ratios averaged over tokens (as the authors did, according to TRL);
    beta is their tau.
    """
    return (margin - 1 / (2 * beta)).square()


def orpo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691, equations 6 and 7).

    chosen, rejected: log-probabilities averaged over tokens. The first term is supervised
    fine-tuning on the chosen answer, the second its odds against the rejected one; beta is the
    paper's lambda.
    """
    odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return -chosen - beta * logsigmoid(odds)


def simpo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    """Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734, equation 6).

    chosen, rejected: log-probabilities averaged over tokens; gamma is the target margin.
    """
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def kto(
    log_ratio: torch.Tensor, desirable: torch.Tensor, kl: torch.Tensor, beta: float
) -> torch.Tensor:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8).

    log_ratio (rows,), desirable (rows,) of booleans; kl: the divergence of the model from the
    reference, a scalar of at least 0 through which no gradient flows. Unweighted.
    """
    margin = torch.where(desirable, log_ratio - kl, kl - log_ratio)
    return 1 - torch.sigmoid(beta * margin)


def _log1mexp(logprob: torch.Tensor) -> torch.Tensor:
    """Return log(1 - exp(x)) for x < 0, exact at both ends (Mächler 2012)."""
    # A probability of 1 has no odds; clamp it just below.
    clamped = logprob.clamp(max=-1e-7)
    is_near_zero = clamped > -0.6931
    return torch.where(
        is_near_zero,
        torch.log(-torch.expm1(torch.where(is_near_zero, clamped, -1.0))),
        torch.log1p(-torch.exp(torch.where(is_near_zero, -1.0, clamped))),
    )
