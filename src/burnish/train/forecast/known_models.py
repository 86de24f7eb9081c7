"""Language models that everybody knows, by the sizes in their public configurations.

From these sizes follow the numbers of weights, which tests compare with the models as transformers
builds them and with what their makers publish.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from burnish.core.recipe.methods import Full, LowRank
from burnish.train.forecast.estimate import ModelShape


@dataclass(frozen=True, slots=True)
class PublicModel:
    """Sizes of a Llama or a Qwen 2: `width` is that of one attention head; `tied`, that embedding
    and head are one matrix; `biased`, that queries, keys and values have biases."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False
    biased: bool = False

    @property
    def matrix_shapes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of each matrix of a layer: queries, keys, values, output; gate, up, down."""
        asked, known = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        attention = ((self.hidden, asked), *[(self.hidden, known)] * 2, (asked, self.hidden))
        return *attention, *[(self.hidden, self.intermediate)] * 2, (self.intermediate, self.hidden)

    @property
    def linear(self) -> int:
        """Numbers in the matrices of all layers."""
        return self.layers * sum(inside * outside for inside, outside in self.matrix_shapes)

    @property
    def weights(self) -> int:
        """All numbers: matrices, biases, two norms a layer and one at the end, embedding, head."""
        biases = (self.heads + 2 * self.key_value_heads) * self.head_dim if self.biased else 0
        rest = self.layers * (2 * self.hidden + biases) + self.hidden
        return self.linear + rest + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def shape(self, method: LowRank | Full) -> ModelShape:
        """The sizes that memory depends on, with a low-rank method on all linear layers."""
        moving = self.weights
        if isinstance(method, LowRank):
            ends = sum(inside + outside for inside, outside in self.matrix_shapes)
            moving = self.layers * method.rank * ends
        return ModelShape(
            layers=self.layers,
            hidden=self.hidden,
            intermediate=self.intermediate,
            key_value_width=self.key_value_heads * self.head_dim,
            frozen=self.weights if isinstance(method, LowRank) else 0,
            linear=self.linear,
            trainable=moving,
        )


KNOWN_MODELS: Mapping[str, PublicModel] = {
    "Llama 3.2 1B": PublicModel(16, 2048, 8192, 32, 8, 64, 128256, tied=True),
    "Llama 3.2 3B": PublicModel(28, 3072, 8192, 24, 8, 128, 128256, tied=True),
    "Qwen 2.5 7B": PublicModel(28, 3584, 18944, 28, 4, 128, 152064, biased=True),
    "Llama 3.1 8B": PublicModel(32, 4096, 14336, 32, 8, 128, 128256),
    "Qwen 2.5 14B": PublicModel(48, 5120, 13824, 40, 8, 128, 152064, biased=True),
    "Qwen 2.5 32B": PublicModel(64, 5120, 27648, 40, 8, 128, 152064, biased=True),
    "Llama 3.1 70B": PublicModel(80, 8192, 28672, 64, 8, 128, 128256),
}
