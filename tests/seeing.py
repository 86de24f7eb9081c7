"""Tiny models that see, with random weights and their library's own processors; coloured pictures.

Three ways to see: Idefics3 (SmolVLM's family) with tokens around its pictures, LLaVA with plain
ones, and Qwen2-VL, whose positions have three dimensions and whose pictures any size.
"""

import io
import json
import random

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import (
    CLIPImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from burnish.core.pictures import joined, picture_from
from burnish.core.records import Message, Row
from burnish.models.pull import pull

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
QUESTION = "Which colour?"
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
_EYES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


def image_file(colour, size=(24, 16), seed=0):
    """The bytes of a PNG of one colour, more or less."""
    draw = random.Random(f"{colour}/{seed}")
    shade = tuple(min(max(part + draw.randint(-20, 20), 0), 255) for part in COLOURS[colour])
    file = io.BytesIO()
    Image.new("RGB", size, shade).save(file, "PNG")
    return file.getvalue()


def shown(colour, question=QUESTION, seed=0):
    """What a user says with a picture before it."""
    content, pictures = joined((picture_from(image_file(colour, seed=seed)), question))
    return Message("user", content, pictures=pictures)


def row_of(colour, seed=0):
    """A picture and its colour."""
    return Row(messages=(shown(colour, seed=seed), Message("assistant", colour)))


def lines(count, seed=0):
    """Rows as OpenAI clients write them, of `count` pictures."""
    names = list(COLOURS)
    for number in range(count):
        row = row_of(names[number % len(names)], f"{seed}/{number}")
        yield json.dumps({"messages": [message.as_wire() for message in row.messages]})


def _tokenizer(tiny, image_tokens, placeholder):
    backend = Tokenizer.from_str(tiny.backend_tokenizer.to_str())
    own = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>",
        pad_token="<|endoftext|>", additional_special_tokens=image_tokens,
    )  # fmt: skip
    own.chat_template = _TEMPLATE.replace("IMAGE", placeholder)
    return own


def _text(tokenizer):
    return {**_TEXT, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}


def write_idefics3(folder, tiny):
    """Pictures of 32 x 32 become 4 tokens."""
    around = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    own = _tokenizer(tiny, around, "<image>")
    eyes = Idefics3ImageProcessorPil(
        do_image_splitting=False, size={"longest_edge": 32}, max_image_size={"longest_edge": 32}
    )
    config = Idefics3Config(
        vision_config={**_EYES, "image_size": 32, "patch_size": 8},
        text_config={**_text(own), "model_type": "llama"},
        scale_factor=2,
        image_token_id=own.convert_tokens_to_ids("<image>"),
        pad_token_id=own.pad_token_id,
    )
    _save(folder, Idefics3ForConditionalGeneration, config, own, eyes)
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Idefics3Processor", "image_seq_len": 4})
    )


def write_llava(folder, tiny):
    """Pictures of 16 x 16 become 4 tokens."""
    own = _tokenizer(tiny, ["<image>"], "<image>")
    eyes = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    config = LlavaConfig(
        vision_config={
            **_EYES,
            "image_size": 16,
            "patch_size": 8,
            "model_type": "clip_vision_model",
        },
        text_config={**_text(own), "model_type": "llama"},
        image_token_index=own.convert_tokens_to_ids("<image>"),
    )
    _save(folder, LlavaForConditionalGeneration, config, own, eyes)
    facts = {
        "processor_class": "LlavaProcessor", "patch_size": 8, "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }  # fmt: skip
    (folder / "processor_config.json").write_text(json.dumps(facts))


def write_qwen2_vl(folder, tiny):
    """Pictures of any size, a token for 8 x 8 of their pixels."""
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    own = _tokenizer(tiny, names, "<|vision_start|><|image_pad|><|vision_end|>")
    start, end, image, video = (own.convert_tokens_to_ids(name) for name in names)
    eyes = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 512}
    )
    config = Qwen2VLConfig(
        vision_config={
            "depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4,
            "mlp_ratio": 2,
        },
        text_config={
            **_text(own),
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]
            },
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start,
        vision_end_token_id=end,
    )  # fmt: skip
    _save(folder, Qwen2VLForConditionalGeneration, config, own, eyes)


def _save(folder, kind, config, tokenizer, eyes):
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    eyes.save_pretrained(folder)


WRITERS = {"idefics3": write_idefics3, "llava": write_llava, "qwen2-vl": write_qwen2_vl}


@pytest.fixture(scope="session")
def seeing_folder(tmp_path_factory, tiny_folder, tiny_tokenizer):
    """A models folder with `tiny` and the models of WRITERS, pulled from where they lay."""
    models, source = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("seeing")
    (models / "tiny").symlink_to(tiny_folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_MODELS", str(models))
        for name, write in WRITERS.items():
            write(source / name, tiny_tokenizer)
            pull(str(source / name))
    return models


@pytest.fixture
def seeing(seeing_folder, monkeypatch):
    """The models folder of this test."""
    monkeypatch.setenv("BURNISH_MODELS", str(seeing_folder))
    return seeing_folder
