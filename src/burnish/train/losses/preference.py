"""Losses of preferences: pure functions of the log-probabilities of answers.

All take natural logarithms in float32 or float64, of shape (rows,), and give one loss a row, of the
same shape; whoever calls them takes the mean over the rows of a step. `chosen` and `rejected` are
the log-probabilities of whole answers, or of a token in the mean where it says so; gains are
log-probabilities less those of the reference, the model before training.
"""

import torch
from torch.nn.functional import logsigmoid


def dpo_sigmoid(margin: torch.Tensor, beta: float, smoothing: float = 0.0) -> torch.Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, equation 7).

    margin: gain of the chosen answer less that of the rejected one. With `smoothing`, that share of
    the pairs is taken to be the wrong way round (conservative DPO, Mitchell 2023).
    """
    right, wrong = logsigmoid(beta * margin), logsigmoid(-beta * margin)
    return -(1 - smoothing) * right - smoothing * wrong


def dpo_hinge(margin: torch.Tensor, beta: float) -> torch.Tensor:
    """The hinge of SLiC-HF (Zhao et al. 2023, arXiv:2305.10425) on the margin of DPO."""
    return torch.relu(1 - beta * margin)


def ipo(margin: torch.Tensor, beta: float) -> torch.Tensor:
    """Identity preference optimisation (Azar et al. 2023, arXiv:2310.12036, equation 17).

    margin: as above, but of gains a token in the mean (what the authors measured, by TRL's word);
    beta is their tau.
    """
    return (margin - 1 / (2 * beta)).square()


def orpo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691, equations 6 and 7).

    chosen, rejected: log-probability of a token in the mean. The first part is supervised
    fine-tuning on the chosen answer, the second its odds against the rejected one; beta is the
    paper's lambda.
    """
    odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
    return -chosen - beta * logsigmoid(odds)


def simpo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    """Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734, equation 6).

    chosen, rejected: log-probability of a token in the mean; gamma is the margin to win by.
    """
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def kto(
    gain: torch.Tensor, desirable: torch.Tensor, drift: torch.Tensor, beta: float
) -> torch.Tensor:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8).

    gain (rows,), desirable (rows,) of booleans; drift: how far the model has moved from the
    reference as a whole, a scalar of at least 0 through which no gradient flows. Unweighted.
    """
    towards = torch.where(desirable, gain - drift, drift - gain)
    return 1 - torch.sigmoid(beta * towards)


def _log_of_rest(log_chance: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends (Mächler 2012)."""
    # What is certain to the last bit has no odds; hold it just below.
    held = log_chance.clamp(max=-1e-7)
    near = held > -0.6931
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, held, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, held))),
    )
