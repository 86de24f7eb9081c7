"""Images that rows name or contain: each is inserted into its message."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from burnish.core.images import BadImage, Image, image_from_bytes, image_from_data_url, join_parts
from burnish.core.recipe.data import Data
from burnish.core.records import Row
from burnish.data.spans import BadRow

Record = Mapping[str, Any]

#: How a column gives an image: a data URL, a file name, or the file's bytes.
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MAGIC_BYTES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")

#: Types of image parts in messages.
_TYPES = ("image", "image_url", "input_image")


def image_url_of(part: Mapping[str, Any]) -> Any:
    """Return the URL or file name of an image part; None if it has none, or isn't an image."""
    if part.get("type") in ("image_url", "input_image"):
        value = part.get("image_url")
        return value.get("url") if isinstance(value, Mapping) else value
    if part.get("type") == "image":
        return next((part[key] for key in ("image", "url", "path") if part.get(key)), None)
    return None


def with_images(record: Record, data: Data) -> tuple[Record, tuple[Image, ...]]:
    """Return the record with its images loaded into its message parts, and the remaining images.

    A part names its image, or takes the next one of the row's image column; images of the column
    that no part takes are returned separately. Raises BadRow for an image that is missing or
    unreadable.
    """
    turns, column = record.get("messages"), _column(record, data)
    if column not in record and data.images is None:
        return record, ()
    remaining = iter(_as_list(record.get(column)) if column else ())
    resolved = {key: value for key, value in record.items() if key != column}
    if isinstance(turns, list):
        resolved["messages"] = [_resolve_turn(turn, remaining, data.images) for turn in turns]
    return resolved, tuple(_load_image(source, data.images) for source in remaining)


def unread_image_columns(record: Record, data: Data) -> list[str]:
    """Return the columns of a record that contain images and aren't read as such."""
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
    """Return whether a text is a data URL of an image, or one word with an image file's ending."""
    folded = text.lower()
    named = folded.endswith(_ENDINGS) and folded not in _ENDINGS
    return folded.startswith("data:image/") or (named and not any(map(str.isspace, text)))


def insert_before_question(row: Row, images: tuple[Image, ...]) -> Row:
    """Return the row with images before the text of its first user turn. Raises BadRow without
    one."""
    position = next((n for n, turn in enumerate(row.messages) if turn.role == "user"), None)
    if position is None:
        raise BadRow("there is an image and no user message", "Add the user's message.")
    turn = row.messages[position]
    content, all_images = join_parts((*images, *turn.parts))
    turns = list(row.messages)
    turns[position] = replace(turn, content=content, images=all_images)
    return replace(row, messages=tuple(turns))


def as_bad_row(error: BadImage) -> BadRow:
    """Return the same error as an error of a row."""
    return BadRow(error.what[0].lower() + error.what[1:].rstrip("."), error.fix)


def _resolve_turn(turn: Any, remaining: Iterator[Any], folder: Path | None) -> Any:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), list):
        return turn
    return {**turn, "content": [_resolve_part(part, remaining, folder) for part in turn["content"]]}


def _resolve_part(part: Any, remaining: Iterator[Any], folder: Path | None) -> Any:
    if not isinstance(part, Mapping) or part.get("type") not in _TYPES:
        return part
    source = image_url_of(part)
    if source is None:
        source = next(remaining, None)
    if source is None:
        raise BadRow("the messages have more image parts than the row has images", "Add the image.")
    return _load_image(source, folder)


def _as_list(value: Any) -> list[Any]:
    """Return the images of a column as a list."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _load_image(source: Any, folder: Path | None) -> Image:
    """Load an image from a data URL, from bytes (as in Parquet files), or from a file name."""
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    try:
        if isinstance(source, bytes):
            return image_from_bytes(source)
        if not isinstance(source, str):
            raise BadRow("an image is neither a file name nor a data URL", "Name its file.")
        if source.startswith("data:") or folder is None:
            return _image_from_url(source)
        return image_from_bytes(_image_path(source, folder).read_bytes())
    except BadImage as error:
        raise as_bad_row(error) from error


def _image_from_url(source: str) -> Image:
    if source.startswith("data:"):
        return image_from_data_url(source)
    raise BadImage(
        f"The image `{source[:60]}` is a file name, and no image folder is set.",
        "Set data.images to the folder in which the names are looked up.",
    )


def _image_path(name: str, folder: Path) -> Path:
    """Return a file within the image folder, and nowhere else."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise BadRow(f"the image `{name}` is outside of {folder}", "Name a file within it.")
    if not file.is_file():
        raise BadRow(f"there is no image {file}", "Correct the name, or data.images.")
    return file
