"""Pictures in messages: what is read, and where they stand."""

import base64
import contextlib
import io
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from burnish.core.images import (
    BadImage,
    decode_image,
    image_from_bytes,
    image_from_data_url,
    image_names_in,
    join_parts,
)
from burnish.core.records import Message, Prompt, images_of
from tests.fixtures.vision_models import image_file

RED, BLUE = (image_from_bytes(image_file(colour)) for colour in ("red", "blue"))


@given(st.lists(st.one_of(st.sampled_from([RED, BLUE]), st.text())))
def test_text_and_pictures_come_apart_as_they_were_put_together(parts):
    content, pictures = join_parts(parts)
    message = Message("user", content, images=pictures)

    texts = [part.replace("\ufffc", "") if isinstance(part, str) else part for part in parts]
    whole = []
    for part in texts if pictures else parts:
        if part and whole and isinstance(part, str) and isinstance(whole[-1], str):
            whole[-1] += part
        elif part:
            whole.append(part)

    assert list(message.parts) == whole
    assert image_names_in(content)[: len(pictures)] == tuple(picture.name for picture in pictures)


def test_no_text_can_bring_a_picture_in():
    content, pictures = join_parts((RED, f"as {BLUE.mark} is"))

    assert pictures == (RED,)
    assert image_names_in(content) == (RED.name,)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_data_url_is_read_and_written(kind):
    file = io.BytesIO()
    Image.new("RGB", (5, 7)).save(file, kind)
    picture = image_from_bytes(file.getvalue())

    assert picture.url.startswith(f"data:image/{kind.lower()};base64,")
    assert image_from_data_url(picture.url) == picture


def bomb():
    """A PNG that says it is 100,000 pixels wide and high."""

    def chunk(kind, data):
        tail = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", tail)

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://example.org/a.png", "not a data URL"),
        ("file:///etc/passwd", "not a data URL"),
        ("/etc/passwd", "not a data URL"),
        ("data:text/plain;base64,aGk=", "not a data URL"),
        ("data:image/png;base64,%%%", "base64"),
        ("data:image/png;base64,aGk=", "can't be read"),
        ("data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(), "can't be read"),
        ("data:image/png;base64," + base64.b64encode(bomb()).decode(), "image"),
    ],
)
def test_what_is_no_picture_is_refused_and_nothing_is_fetched(url, why):
    with pytest.raises(BadImage, match=why) as caught:
        image_from_data_url(url)

    assert caught.value.fix


def noise(kind):
    """A file of coloured noise, the same one each time."""
    file = io.BytesIO()
    Image.frombytes("RGB", (24, 24), random.Random(0).randbytes(3 * 24 * 24)).save(file, kind)
    return file.getvalue()


NOISE = [noise(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")]


@given(st.sampled_from(NOISE), st.data())
def test_a_damaged_file_is_a_picture_or_says_that_it_is_none(file, data):
    whole = bytearray(file)
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = whole[: data.draw(st.integers(0, len(whole)))]

    with contextlib.suppress(BadImage):
        image_from_bytes(bytes(cut))


def test_a_photo_is_seen_upright():
    file, photo = io.BytesIO(), Image.new("RGB", (6, 4))
    photo.putpixel((0, 0), (255, 0, 0))
    exif = photo.getexif()
    exif[0x0112] = 6  # to be turned to the right
    photo.save(file, "PNG", exif=exif)

    seen = decode_image(file.getvalue())

    assert seen.size == (4, 6)
    assert seen.getpixel((3, 0)) == (255, 0, 0)


def test_an_answer_depends_on_the_picture_that_is_asked_about():
    asked = [
        Prompt((Message("user", *join_parts((picture, "What?"))[:1], images=(picture,)),))
        for picture in (RED, BLUE)
    ]

    assert asked[0].as_dict() != asked[1].as_dict()
    assert images_of(asked[0].messages) == (RED,)
