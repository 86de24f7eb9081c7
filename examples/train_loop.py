"""LoRA fine-tuning from rows to an adapter on one page: what `burnish train` does, written flat.

    python examples/train_loop.py examples/support-desk/triage.yaml my-adapter

Read it from top to bottom. It ends in the same weights as `burnish train RECIPE`, bit for bit on a
CPU (a test compares the files). What `burnish train` does beside that: it forecasts memory and
time, writes checkpoints that it can go on from, knows other objectives and methods, and divides
the work between processes.
"""

import math
import random
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

# The plumbing of data (recipe, rows, chat template, audit), and from `burnish.train` the packed
# batch with the attention, layers and loss that compute on it. They do what transformers' own do,
# faster and in another order of sums: with the plain ones the last bits would differ.
from burnish.core.recipe.recipe import load_recipe
from burnish.core.recipe.train import Train
from burnish.core.records import have_reasoning
from burnish.data.load import load
from burnish.models.chat_template import encode_row, set_thinking, split_as_served
from burnish.models.load import default_device, load_tokenizer, training_dtype
from burnish.models.local_models import find_model
from burnish.models.token_audit import audit
from burnish.train.batching.micro_batches import micro_batches, trim_to_target
from burnish.train.batching.packed import pack
from burnish.train.batching.sampler import group_rows
from burnish.train.kernels.fused_layers import fuse
from burnish.train.kernels.packed_attention import ATTENTION
from burnish.train.losses.linear import LinearCrossEntropy

recipe_file, out = Path(sys.argv[1]), Path(sys.argv[2])
recipe = load_recipe(recipe_file, sys.argv[3:])  # further arguments: train.epochs=1 ...
settings, method = recipe.train, recipe.train.method
for name in ("objective", "optimizer", "quantization_aware", "compile", "parallel"):
    if getattr(settings, name) != getattr(Train(), name):
        sys.exit(f"train.{name} is not at its default; this page has LoRA, SFT and AdamW only.")
if method.kind != "lora" or method.init != "zero" or method.init_from or method.stack_on:
    sys.exit("train.method is not plain LoRA; this page has nothing else.")
if out.exists():
    sys.exit(f"{out} exists already.")

# ---------------------------------------------------------------------------------------------
# Rows. A conversation is rendered by the model's own chat template; only the assistant's tokens
# have a weight in the loss. The audit refuses rows that would teach the wrong tokens, or none.

base = find_model(recipe.model.name)
split = load(recipe).split
tokenizer = set_thinking(load_tokenizer(base), have_reasoning(split.train))
train_rows = [part for row in split.train for part in split_as_served(tokenizer, row)]
validation_rows = [part for row in split.validation for part in split_as_served(tokenizer, row)]
if findings := audit([*train_rows, *validation_rows], tokenizer, settings.max_length):
    sys.exit("\n".join(finding.summary for finding in findings))
train = [trim_to_target(encode_row(tokenizer, row, settings.max_length)) for row in train_rows]
validation = [
    trim_to_target(encode_row(tokenizer, row, settings.max_length)) for row in validation_rows
]

# ---------------------------------------------------------------------------------------------
# The model. Its weights are frozen; each linear layer gets two small matrices that are trained.

torch.manual_seed(settings.seed)  # of the matrices' first values, and of dropout
if settings.threads:
    torch.set_num_threads(settings.threads)
model = AutoModelForCausalLM.from_pretrained(
    base.path, dtype=training_dtype(recipe.model.dtype), local_files_only=True
).to(default_device())
targets = "all-linear" if method.targets == ("all-linear",) else list(method.targets)
lora = LoraConfig(
    r=method.rank, lora_alpha=method.alpha, lora_dropout=method.dropout, target_modules=targets,
    rank_pattern=dict(method.rank_pattern), use_rslora=method.rslora, task_type="CAUSAL_LM",
)  # fmt: skip
peft_model = get_peft_model(model, lora, autocast_adapter_dtype=False)
model.set_attn_implementation(ATTENTION)  # rows in one flat sequence, each sees itself only
fuse(peft_model)
if settings.gradient_checkpointing:
    model.gradient_checkpointing_enable({"use_reentrant": False})


def summed_loss(rows: list) -> torch.Tensor:
    """Return the cross-entropy of some rows, summed over the learnt tokens."""
    # One sequence without padding; what all rows begin with stands in it once.
    batch = pack(rows, default_device())
    hidden = model.base_model(
        input_ids=batch.ids, position_ids=batch.positions, use_cache=False, layout=batch.layout
    ).last_hidden_state[0]
    # Only places whose next token is learnt go through the head: logits are the largest tensor.
    places = hidden.index_select(0, batch.predict_positions)
    head = model.get_output_embeddings().weight
    return LinearCrossEntropy.apply(places, head, batch.targets, batch.weights)


def token_count(rows: list) -> float:
    """Return how many tokens of some rows are learnt, each counted by its weight."""
    return sum(sum(row.weights) for row in rows)


@torch.no_grad()
def validation_loss() -> float:
    """Return the mean loss of a learnt token over the validation rows."""
    peft_model.eval()
    parts = micro_batches(validation, settings.micro_batch_tokens)
    return sum(float(summed_loss(rows)) for rows in parts) / token_count(validation)


# ---------------------------------------------------------------------------------------------
# The optimizer works on float32 copies ("masters"): a bfloat16 weight has 8 bits of mantissa, and
# most updates would round to nothing. The model holds their rounded copies.

weights = [weight for weight in peft_model.parameters() if weight.requires_grad]
masters = [weight.detach().float().clone() for weight in weights]
for master in masters:
    master.grad = torch.zeros_like(master)
adamw = torch.optim.AdamW(
    masters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
)


@torch.no_grad()
def set_weights(exact: list) -> None:
    """Give the model the rounded copies of exact weights."""
    for weight, value in zip(weights, exact, strict=True):
        weight.copy_(value)


# ---------------------------------------------------------------------------------------------
# The order: every epoch has its own shuffle, made of the seed and the epoch's number. Rows that
# continue one another (turns of one conversation) stay in one step.

unit_of = {place: unit for unit in group_rows(train, settings) for place in unit}
stream = []
for epoch in range(math.ceil(settings.epochs)):
    order = list(range(len(train)))
    random.Random(f"{settings.seed}/{epoch}").shuffle(order)
    stream += dict.fromkeys(own for place in order for own in unit_of.get(place, (place,)))
stream = stream[: math.ceil(len(train) * settings.epochs)]
steps = math.ceil(len(train) * settings.epochs / settings.batch_size)
steps = min(steps, settings.max_steps or steps)
warmup = math.ceil(settings.warmup_ratio * steps)
twice_an_epoch = max(min(math.ceil(len(train) / settings.batch_size / 2), steps), 1)
validate_every = settings.evaluate_every or twice_an_epoch

# ---------------------------------------------------------------------------------------------
# The loop.

best, best_loss, waited = masters, math.inf, 0
for step in range(steps):
    begin = step * settings.batch_size
    rows = [train[place] for place in stream[begin : begin + settings.batch_size]]

    # Gradients. The sum is divided once by the step's tokens: a mean of the means of micro-batches
    # would weight short rows too much.
    peft_model.train()
    total, tokens = 0.0, token_count(rows)
    for micro_batch in micro_batches(rows, settings.micro_batch_tokens):
        loss = summed_loss(micro_batch)
        (loss * (1 / tokens)).backward()
        total += float(loss.detach())
        for weight, master in zip(weights, masters, strict=True):
            if weight.grad is not None:
                master.grad += weight.grad
                weight.grad = None
    norm = float(torch.nn.utils.clip_grad_norm_(masters, settings.max_grad_norm))
    if not math.isfinite(total) or not math.isfinite(norm):
        sys.exit(f"The loss is no longer a number at step {step + 1}: lower train.learning_rate.")

    # The rate: a linear warm-up, then the schedule. The update, and the model's rounded copies.
    done = (step - warmup) / max(steps - warmup, 1)
    left = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    factor = (step + 1) / warmup if step < warmup else left[settings.schedule]
    rate = settings.learning_rate * factor
    adamw.param_groups[0]["lr"] = rate
    adamw.step()
    adamw.zero_grad(set_to_none=False)
    set_weights(masters)
    print(f"step {step + 1}/{steps}  loss {total / tokens:.4f}  norm {norm:.2f}  rate {rate:.2e}")

    # The best weights so far are kept; when they are long ago, training stops.
    if validation and ((step + 1) % validate_every == 0 or step + 1 == steps):
        now = validation_loss()
        print(f"step {step + 1}/{steps}  validation loss {now:.4f}")
        waited = 0 if now < best_loss else waited + 1
        if now < best_loss:
            best, best_loss = [master.clone() for master in masters], now
        if settings.patience and waited >= settings.patience:
            break

set_weights(best)
peft_model.save_pretrained(out, save_embedding_layers=False)
tokenizer.save_pretrained(out)
print(f"{out}: a PEFT adapter of {base.name}")
