"""Images in conversations: the bytes of a file, and a placeholder in a message's text.

A message's `content` stays a string: code that compares, hashes or prints conversations sees a
placeholder in place of each image, with a name derived from the image's bytes. Only rendering for a
vision-language model separates text and images (`Message.parts`).
"""

import base64
import binascii
import hashlib
import io
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.errors import BadData, NotFound

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

#: Unicode's object replacement character.
_OBJECT = "\ufffc"
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
#: Accepted formats. Others of Pillow's have allowed code execution, or need other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
#: A small file can hold a huge image.
_MAX_PIXELS = 50_000_000
#: What Pillow raises for a corrupt file.
_BROKEN = (OSError, ValueError, SyntaxError, TypeError, EOFError, LookupError, struct.error)


class BadImage(BadData):
    """An image cannot be read."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image: the bytes of its file, a name derived from them, and its number of pixels."""

    name: str
    data: bytes = field(repr=False)
    pixels: int

    @property
    def mark(self) -> str:
        """The placeholder for the image in a text."""
        return f"{_OBJECT}{self.name}{_OBJECT}"

    @property
    def url(self) -> str:
        """The data URL that `image_from_data_url` reads."""
        return f"data:image/{_kind(self.data)};base64,{base64.b64encode(self.data).decode()}"


def image_from_data_url(url: str) -> Image:
    """Return the image in a data URL. Raises BadImage; addresses are never fetched."""
    begin = _DATA_URL.match(url)
    if not begin:
        shown = url if len(url) <= 60 else f"{url[:60]}..."
        raise BadImage(
            f"The image `{shown}` is not a data URL.",
            "Write data:image/png;base64, and then the file's bytes in base64 (or jpeg, webp, "
            "gif); addresses are not fetched.",
        )
    try:
        return image_from_bytes(base64.b64decode(url[begin.end() :], validate=True))
    except binascii.Error as error:
        raise BadImage(f"An image's base64 is invalid: {error}.", "Encode it again.") from error


def image_from_bytes(data: bytes) -> Image:
    """Return the image in a file's bytes; all of it is decoded once. Raises BadImage."""
    image = decode_image(data)
    # A letter first, so that no name looks like a number.
    name = f"p{hashlib.sha256(data).hexdigest()[:16]}"
    return Image(name, data, image.width * image.height)


def decode_image(data: bytes) -> "PilImage":
    """Return the pixels in a file's bytes, upright and in RGB, as `transformers` loads images.

    Raises BadImage.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height <= _MAX_PIXELS:
                return (ImageOps.exif_transpose(image) or image).convert("RGB")
            size = image.width * image.height
    except (*_BROKEN, Image.DecompressionBombError) as error:
        known = ", ".join(_FORMATS)
        raise BadImage("An image can't be read.", f"Supported formats: {known}.") from error
    raise BadImage(
        f"An image has {size / 1e6:.0f} million pixels; the limit is {_MAX_PIXELS // 10**6}.",
        "Make it smaller: models use far fewer.",
    )


def image_from_file(file: Path) -> Image:
    """Return the image in a file. Raises NotFound, BadImage."""
    if not file.is_file():
        raise NotFound(f"There is no image {file}.", "Check the path.")
    return image_from_bytes(file.read_bytes())


def join_parts(parts: Iterable[str | Image]) -> tuple[str, tuple[Image, ...]]:
    """Return a message's content with placeholders, and its images in order.

    Placeholder characters in the text itself are removed, so a user cannot inject one.
    """
    items = tuple(parts)
    images = tuple(part for part in items if isinstance(part, Image))
    if not images:
        return "".join(map(str, items)), ()
    texts = [p.mark if isinstance(p, Image) else p.replace(_OBJECT, "") for p in items]
    return "".join(texts), images


def _kind(data: bytes) -> str:
    """Return the image's file type, from its first bytes."""
    kinds = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
    return next(kind for begin, kind in kinds.items() if data.startswith(begin))


def image_names_in(text: str) -> tuple[str, ...]:
    """Return the names of the images whose placeholders stand in a text."""
    return tuple(re.findall(f"{_OBJECT}(p[0-9a-f]{{16}}){_OBJECT}", text))
