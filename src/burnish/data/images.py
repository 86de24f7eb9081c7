"""Pictures that rows name or bring along: each takes its place in the message that it is for."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from burnish.core.images import BadImage, Image, image_from_bytes, image_from_data_url, join_parts
from burnish.core.recipe.data import Data
from burnish.core.records import Row
from burnish.data.spans import BadRow

Record = Mapping[str, Any]

#: What a column holds that is a picture: a data URL, the name of a file, or the file itself.
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MAGIC_BYTES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")

#: What a part of a message that is a picture is called.
_TYPES = ("image", "image_url", "input_image")


def image_url_of(part: Mapping[str, Any]) -> Any:
    """Where a part of a message has its picture: the URL or the name. None if it has none, or is no
    picture."""
    if part.get("type") in ("image_url", "input_image"):
        found = part.get("image_url")
        return found.get("url") if isinstance(found, Mapping) else found
    if part.get("type") == "image":
        return next((part[key] for key in ("image", "url", "path") if part.get(key)), None)
    return None


def with_images(record: Record, data: Data) -> tuple[Record, tuple[Image, ...]]:
    """The record with the picture in the place of each part of its messages that names one, or
    stands for the next one of the row's column of pictures; and those of the column that no part
    stands for.

    Raises BadRow for a picture that isn't there or can't be read.
    """
    turns, column = record.get("messages"), _column(record, data)
    if column not in record and data.images is None:
        return record, ()
    given = iter(_as_list(record.get(column)) if column else ())
    found = {key: value for key, value in record.items() if key != column}
    if isinstance(turns, list):
        found["messages"] = [_resolve_turn(turn, given, data.images) for turn in turns]
    return found, tuple(_load_image(one, data.images) for one in given)


def unread_image_columns(record: Record, data: Data) -> list[str]:
    """The columns of a record that hold pictures and aren't read as such."""
    column = _column(record, data)
    return [key for key, value in record.items() if key != column and _is_image(value)]


def _column(record: Record, data: Data) -> str | None:
    return data.columns.image or ("images" if isinstance(record.get("messages"), list) else None)


def _is_image(value: Any) -> bool:
    first = value[0] if isinstance(value, list | tuple) and value else value
    if isinstance(first, Mapping):
        first = first.get("bytes") or first.get("path")
    if isinstance(first, bytes):
        return first.startswith(_MAGIC_BYTES) or first[8:12] == b"WEBP"
    return isinstance(first, str) and _is_name(first)


def _is_name(text: str) -> bool:
    """Whether a text is a data URL of a picture, or one word that ends as a picture's file does."""
    folded = text.lower()
    named = folded.endswith(_ENDINGS) and folded not in _ENDINGS
    return folded.startswith("data:image/") or (named and not any(map(str.isspace, text)))


def insert_before_question(row: Row, pictures: tuple[Image, ...]) -> Row:
    """The row with pictures before the text of its first user turn. Raises BadRow without one."""
    place = next((n for n, turn in enumerate(row.messages) if turn.role == "user"), None)
    if place is None:
        raise BadRow("there is a picture and nobody asks about it", "Add what the user says.")
    turn = row.messages[place]
    content, shown = join_parts((*pictures, *turn.parts))
    turns = list(row.messages)
    turns[place] = replace(turn, content=content, images=shown)
    return replace(row, messages=tuple(turns))


def as_bad_row(error: BadImage) -> BadRow:
    """The same fault as one of a row."""
    return BadRow(error.what[0].lower() + error.what[1:].rstrip("."), error.fix)


def _resolve_turn(turn: Any, given: Iterator[Any], folder: Path | None) -> Any:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), list):
        return turn
    return {**turn, "content": [_resolve_part(part, given, folder) for part in turn["content"]]}


def _resolve_part(part: Any, given: Iterator[Any], folder: Path | None) -> Any:
    if not isinstance(part, Mapping) or part.get("type") not in _TYPES:
        return part
    source = image_url_of(part)
    if source is None:
        source = next(given, None)
    if source is None:
        raise BadRow("a message stands for more pictures than the row has", "Add the picture.")
    return _load_image(source, folder)


def _as_list(value: Any) -> list[Any]:
    """The pictures in a column: one, several, or none."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _load_image(source: Any, folder: Path | None) -> Image:
    """A picture from a data URL, from bytes (as parquet files hold them), or from a file's name."""
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    try:
        if isinstance(source, bytes):
            return image_from_bytes(source)
        if not isinstance(source, str):
            raise BadRow("a picture is neither a name nor a data URL", "Name its file.")
        if source.startswith("data:") or folder is None:
            return _image_from_url(source)
        return image_from_bytes(_image_path(source, folder).read_bytes())
    except BadImage as error:
        raise as_bad_row(error) from error


def _image_from_url(source: str) -> Image:
    if source.startswith("data:"):
        return image_from_data_url(source)
    raise BadImage(
        f"The picture `{source[:60]}` is a name, and no folder of pictures is named.",
        "Set data.images to the folder in which the names are looked up.",
    )


def _image_path(name: str, folder: Path) -> Path:
    """A file in the folder of pictures, and nowhere else."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise BadRow(f"the picture `{name}` lies outside of {folder}", "Name a file within it.")
    if not file.is_file():
        raise BadRow(f"there is no picture {file}", "Correct the name, or data.images.")
    return file
