"""Well-known language models, by the sizes in their public configurations.

The numbers of weights follow from these sizes; tests compare them with the models that transformers
builds and with the published numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from burnish.core.recipe.methods import Full, LowRank
from burnish.train.forecast.estimate import ModelShape


@dataclass(frozen=True, slots=True)
class PublicModel:
    """Sizes of a Llama or a Qwen 2. `tied`: embedding and head are one matrix; `biased`: queries,
    keys and values have biases."""

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
        queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        attention = ((self.hidden, queries), *[(self.hidden, keys)] * 2, (queries, self.hidden))
        mlp = (*[(self.hidden, self.intermediate)] * 2, (self.intermediate, self.hidden))
        return *attention, *mlp

    @property
    def linear(self) -> int:
        """Numbers in the matrices of all layers."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.matrix_shapes)

    @property
    def weights(self) -> int:
        """All numbers: matrices, biases, two norms a layer and one at the end, embedding, head."""
        biases = (self.heads + 2 * self.key_value_heads) * self.head_dim if self.biased else 0
        rest = self.layers * (2 * self.hidden + biases) + self.hidden
        return self.linear + rest + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def shape(self, method: LowRank | Full) -> ModelShape:
        """Return the sizes that memory depends on, with a low-rank method on all linear layers."""
        trainable = self.weights
        if isinstance(method, LowRank):
            widths = sum(inputs + outputs for inputs, outputs in self.matrix_shapes)
            trainable = self.layers * method.rank * widths
        return ModelShape(
            layers=self.layers,
            hidden=self.hidden,
            intermediate=self.intermediate,
            key_value_width=self.key_value_heads * self.head_dim,
            frozen=self.weights if isinstance(method, LowRank) else 0,
            linear=self.linear,
            trainable=trainable,
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
