"""What is left of a container's memory, told from the files of its control group."""

import pytest

from burnish.models.load import _container_rooms, available_memory


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

    assert _container_rooms(tmp_path) == [350]


def test_no_limit_leaves_the_machine(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")

    assert _container_rooms(tmp_path) == []
    assert available_memory() > 0
