"""Pictures in conversations: the bytes of a file, and a mark where it stands in a message's text.

A message's `content` stays a text: whatever compares, hashes or prints conversations sees of each
picture a mark with a name that is made of its bytes. Only what renders a conversation for a model
that sees takes text and pictures apart (`Message.parts`).
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

#: Unicode's character for an object that stands in a text.
_OBJECT = "\ufffc"
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
#: Formats that are read. Others of Pillow's have been a way to run code, or need other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
#: A small file can hold a huge picture.
_MAX_PIXELS = 50_000_000
#: What Pillow raises about a file that isn't what it says.
_BROKEN = (OSError, ValueError, SyntaxError, TypeError, EOFError, LookupError, struct.error)


class BadImage(BadData):
    """What should be a picture is none that can be read."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image: the bytes of its file, the name that they give it, and how many pixels it has."""

    name: str
    data: bytes = field(repr=False)
    pixels: int

    @property
    def mark(self) -> str:
        """What stands for it in a text."""
        return f"{_OBJECT}{self.name}{_OBJECT}"

    @property
    def url(self) -> str:
        """The data URL that `picture_of` reads."""
        return f"data:image/{_kind(self.data)};base64,{base64.b64encode(self.data).decode()}"


def image_from_data_url(url: str) -> Image:
    """The picture in a data URL. Raises BadPicture: nothing is fetched from anywhere."""
    begin = _DATA_URL.match(url)
    if not begin:
        shown = url if len(url) <= 60 else f"{url[:60]}..."
        raise BadImage(
            f"The picture `{shown}` is not a data URL.",
            "Write data:image/png;base64, and then the file's bytes in base64 (or jpeg, webp, "
            "gif); addresses are not fetched.",
        )
    try:
        return image_from_bytes(base64.b64decode(url[begin.end() :], validate=True))
    except binascii.Error as error:
        raise BadImage(f"A picture's base64 is broken: {error}.", "Encode it again.") from error


def image_from_bytes(data: bytes) -> Image:
    """The picture in a file's bytes, which is read whole. Raises BadPicture."""
    image = decode_image(data)
    # A letter first, so that no name looks like a number of something.
    name = f"p{hashlib.sha256(data).hexdigest()[:16]}"
    return Image(name, data, image.width * image.height)


def decode_image(data: bytes) -> "PilImage":
    """The pixels in a file's bytes, upright and in colours, as `transformers` loads pictures.

    Raises BadPicture.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height <= _MAX_PIXELS:
                return (ImageOps.exif_transpose(image) or image).convert("RGB")
            size = image.width * image.height
    except (*_BROKEN, Image.DecompressionBombError) as error:
        known = ", ".join(_FORMATS)
        raise BadImage("A picture can't be read.", f"It must be one of: {known}.") from error
    raise BadImage(
        f"A picture has {size / 1e6:.0f} million pixels; at most {_MAX_PIXELS // 10**6} are read.",
        "Make it smaller: models look at far fewer.",
    )


def image_from_file(file: Path) -> Image:
    """The picture in a file. Raises NotFound, BadPicture."""
    if not file.is_file():
        raise NotFound(f"There is no picture {file}.", "Check the path.")
    return image_from_bytes(file.read_bytes())


def join_parts(parts: Iterable[str | Image]) -> tuple[str, tuple[Image, ...]]:
    """A message's content with marks, and its pictures in their order.

    A text cannot bring a mark of its own.
    """
    whole = tuple(parts)
    pictures = tuple(part for part in whole if isinstance(part, Image))
    if not pictures:
        return "".join(map(str, whole)), ()
    texts = [p.mark if isinstance(p, Image) else p.replace(_OBJECT, "") for p in whole]
    return "".join(texts), pictures


def _kind(data: bytes) -> str:
    """The type of a picture's file, by its first bytes."""
    kinds = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
    return next(kind for begin, kind in kinds.items() if data.startswith(begin))


def image_names_in(text: str) -> tuple[str, ...]:
    """The names of the pictures whose marks stand in a text."""
    return tuple(re.findall(f"{_OBJECT}(p[0-9a-f]{{16}}){_OBJECT}", text))
