"""The model card of an exported folder: contents, lineage, measurements."""

from collections.abc import Mapping
from typing import Any

from burnish.models.artifact import Artifact

_USE = {
    "merged": (
        "burnish serve {folder}",
        "vllm serve {folder}",
        'python -c "from transformers import AutoModelForCausalLM as M; '
        "M.from_pretrained('{folder}')\"",
    ),
    "adapter": ("burnish serve {folder}",),
    "gguf": ("ollama create {name} -f {folder}/Modelfile",),
    "onnx": ("python -c \"import onnxruntime_genai as og; og.Model('{folder}')\"",),
    "openvino": (
        "python -c \"import openvino_genai as g; print(g.LLMPipeline('{folder}', 'CPU')"
        ".generate('...', max_new_tokens=64))\"",
    ),
    "gguf-lora": ("ollama create {name} -f {folder}/Modelfile",),
}


def render_model_card(
    artifact: Artifact, licence: str, parity: Mapping[str, Any], size: int
) -> str:
    """Return Markdown. `parity` is the content of `parity.json`, `size` the folder's bytes."""
    export, lineage = artifact.lineage["export"], artifact.lineage
    name = str(lineage.get("run", artifact.base))
    uses = [line.format(folder=artifact.path.name, name=name) for line in _USE[export["to"]]]
    shippable = "yes" if parity["shippable"] else "NO"
    parts = [
        f"# {name} ({export['to']}, {export['quant']})",
        f"Fine-tuned from `{artifact.base}` (licence of the base: {licence}) with burnish. "
        f"Passed the parity gate: **{shippable}**.",
        *[f"- {reason}" for reason in parity["against"]],
        *_notes(artifact),
        "## Measured",
        _table(format_measurements(parity, size)),
        "## Use",
        "\n".join(["```", *uses, "```"]),
    ]
    if artifact.system:
        parts += [
            "It was trained with this system message. Clients must send it, except to "
            f"`burnish serve`:\n\n> {artifact.system}"
        ]
    parts += ["## Lineage", _format_lineage(artifact)]
    return "\n\n".join(parts) + "\n"


def _notes(artifact: Artifact) -> list[str]:
    """Return what a reader should know about how the weights were made."""
    export, notes = artifact.lineage["export"], []
    if artifact.quantized and export["to"] != "adapter":
        notes.append(
            "The adapter was trained on 4-bit weights and is merged into the base's original "
            "16-bit weights, which it never saw: answers may differ from the trained model's. The "
            "gate measured by how much."
        )
    if dropped := artifact.lineage.get("dropped_layers"):
        notes.append(f"Dropped layers: {', '.join(map(str, dropped))}.")
    if export.get("importance"):
        notes.append("Rounded with an importance matrix computed on training rows.")
    if export.get("fallen_back"):
        total = sum(export["matrices"].values())
        notes.append(
            f"{export['fallen_back']} of {total} matrices have rows that aren't a multiple of the "
            f"format's block, and were written in another format, as llama.cpp does: "
            f"{', '.join(f'{n} {kind}' for kind, n in export['matrices'].items())}."
        )
    return notes


def format_measurements(parity: Mapping[str, Any], size: int) -> dict[str, str]:
    """Return the measurements as text for people."""
    lines = {"size": f"{size / 1e6:.1f} MB", "questions": str(parity["rows"])}
    for name, change in parity["changes"].items():
        loss = (
            f"loss at most {100 * change['loss_at_most']:.1f} points, "
            f"{100 * change['budget']:.1f} allowed"
            if change["changed"]
            else "no answer changed"
        )
        lines[f"{change['metric']}, {name.replace('_', ' ')}"] = (
            f"{change['exported']:.1%} (trained model {change['trained']:.1%}; {loss})"
        )
    speed = parity["speed"]
    return lines | {
        "same answers": f"{parity['same_answers']} of {parity['rows']}",
        "tokens that agree": f"{parity['token_agreement']:.1%}",
        "seconds an answer": f"p50 {speed['p50_s']:.3f}, p95 {speed['p95_s']:.3f}",
        "answer tokens a second": f"{speed['tokens_per_s']:.1f}",
        "memory of the server": f"{speed['memory_bytes'] / 1e6:.0f} MB",
    }


def _table(lines: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *[f"| {what} | {v} |" for what, v in lines.items()]])


def _format_lineage(artifact: Artifact) -> str:
    lineage = artifact.lineage
    facts = {
        "run": lineage.get("run"),
        "base": f"{lineage['base']['name']} ({lineage['base']['sha256'][:12]})",
        "trained artifact": lineage["export"]["artifact_sha256"][:12],
        "chat template": lineage["template_sha256"][:12],
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)
