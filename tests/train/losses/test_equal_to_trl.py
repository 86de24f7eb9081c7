"""Loss and adapter gradients are those of TRL's SFTTrainer on the same rows."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from burnish.models.load import load_model, load_tokenizer
from burnish.train.adapters.registry import trainable_weights
from burnish.train.loop.language_model import train_step
from tests.fixtures.training import make_rows
from tests.train.batching.test_packed import stir


class Spy(TrainerCallback):
    """Keeps loss and gradients of the first step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    def on_log(self, args, state, control, logs=None, **_):
        self.loss = (logs or {}).get("loss", getattr(self, "loss", None))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_one_step_is_that_of_trl(accumulate, plan_of, tiny, tmp_path):
    rows = make_rows(6, system="Sort the request.")
    plan = plan_of(rows, "train.micro_batch_tokens=256", "train.batch_size=6")
    stir(plan.model)
    ours = {name: weight.detach().clone() for name, weight in trainable_weights(plan.model).items()}
    learnt = [
        {"input_ids": list(row.ids), "completion_mask": [int(weight > 0) for weight in row.weights]}
        for row in plan.rows
    ]
    spy = Spy()
    trainer = SFTTrainer(
        model=load_model(tiny, torch.float32),
        args=SFTConfig(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=6 // accumulate,
            gradient_accumulation_steps=accumulate, completion_only_loss=True, use_cpu=True,
            report_to=[], logging_steps=1, max_grad_norm=1e9, bf16=False, learning_rate=1e-9,
            save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(learnt),
        processing_class=load_tokenizer(tiny),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear",
                               task_type="CAUSAL_LM"),
        callbacks=[spy],
    )  # fmt: skip
    for name, weight in trainable_weights(trainer.model).items():
        weight.data.copy_(ours[name])
    trainer.train()

    loss = train_step(plan, plan.rows)["loss"]

    assert loss == pytest.approx(spy.loss, rel=1e-4)
    for name, master in plan.optimizer.masters.items():
        torch.testing.assert_close(master.grad, spy.grads[name], rtol=1e-3, atol=1e-6)
