"""Self-attention held to a teacher's, as a part of objectives."""

from pydantic import Field

from burnish.core.section import Section


class Relations(Section):
    """Which token of a row is like which other one, by its queries, its keys and its values: the
    student's last layer is held to a layer of the teacher (MiniLMv2, Wang et al. 2021,
    arXiv:2012.15828). Widths and numbers of heads may differ; the tokens must be the same."""

    weight: float = Field(0.0, ge=0, description="Weight beside the objective's loss; 0: not held.")
    layer: int | None = Field(
        None, ge=1, description="The teacher's layer, counted from 1; the last one if empty."
    )
    heads: int | None = Field(
        None,
        ge=1,
        description="Relation heads: into how many parts queries, keys and values are cut. If "
        "empty as many as the teacher has key-value heads, or the next fewer that divide all "
        "widths.",
    )
