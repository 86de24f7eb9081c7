"""The loss that tests name in a recipe: cross-entropy, as a mean over the answer's tokens."""


def loss(answers, row):
    """The loss of the first answer."""
    return -answers[0].logprobs.mean()
