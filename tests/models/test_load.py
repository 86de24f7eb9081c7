"""What a machine has for a training: room in its memory, and a number format."""

import pytest
import torch

from burnish.models.load import (
    _container_free_memory,
    available_memory,
    slow_dtype_warning,
    training_dtype,
)


@pytest.mark.parametrize(
    ("most", "used"),
    [
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ],
)
def test_a_limit_leaves_what_is_unused_or_only_cached(most, used, tmp_path):
    (tmp_path / most).parent.mkdir(exist_ok=True)
    (tmp_path / most).write_text("1000\n")
    (tmp_path / used).write_text("700\n")
    (tmp_path / most).with_name("memory.stat").write_text("anon 600\ninactive_file 50\n")

    assert _container_free_memory(tmp_path) == [350]


def test_no_limit_leaves_the_machine(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")

    assert _container_free_memory(tmp_path) == []
    assert available_memory() > 0


@pytest.mark.parametrize(
    ("flags", "auto"),
    [({"avx2": True}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16)],
)
def test_the_number_format_is_what_the_processor_multiplies_fast(flags, auto, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert training_dtype("auto") == auto
    assert bool(slow_dtype_warning("bfloat16")) == (auto == torch.float32)
    assert slow_dtype_warning("float32") == slow_dtype_warning("auto") == ""
