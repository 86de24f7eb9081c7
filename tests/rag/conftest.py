"""Documents of every kind, and a tiny embedder."""

import pytest

from tests.embedder import embedder_folder, minilm, tiny_embedder

__all__ = ["embedder_folder", "minilm", "tiny_embedder"]

PAGES = {
    "parcels.md": "# Parcels\n\nA parcel takes three days.\n\n"
    "## Lost\n\nA lost parcel is sent again.\n",
    "money.md": "# Money\n\nA refund takes five days.\n\n"
    "## Gifts\n\nA gift is paid back as credit.\n",
    "notes/lamps.txt": "The lamp is green.\n\nThe login needs a password.\n",
}


@pytest.fixture
def folder(tmp_path):
    """A folder of three documents."""
    root = tmp_path / "documents"
    for name, text in PAGES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def index(tiny_embedder):
    """Make or renew an index with the tiny embedder."""
    from burnish.rag.build import build_index

    def make(*sources, name="docs", **changes):
        return build_index(sources, name, {"embedder": tiny_embedder.name, **changes})

    return make


def pdf(*pages):
    """A minimal PDF whose pages say these texts."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        shown = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream")
    out, places = b"%PDF-1.4\n", []
    for n, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{n} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    tail = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return out + f"{tail}startxref\n{len(out)}\n%%EOF\n".encode()
