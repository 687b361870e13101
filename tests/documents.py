"""The documents of the project, as their tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results.md"
GUIDES = (ROOT / "docs" / "training.md", ROOT / "docs" / "devices.md", README)  # in this order
# Beside `devices.md`, what btc-edge does: nothing in them is typed by a test.
STUDIES, SERVICES = ROOT / "docs" / "studies.md", ROOT / "docs" / "services.md"
ARCHIVE = ROOT / "docs" / "archive.md"
WEB = ROOT / "docs" / "web.md"  # likewise of btc-export
# Its blocks `sh` need no network; its blocks `bash` do, or files of one's own.
DATA_GUIDE = ROOT / "docs" / "data.md"
DOCUMENTS = tuple(
    sorted(
        path
        for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "pretrained/*.md", "web/*.md")
        for path in ROOT.glob(pattern)
    )
)


def blocks(path: Path, kind: str) -> list[str]:
    """The blocks of code of a kind (`sh`, `python`, …) in a document."""
    return re.findall(rf"```{kind}\n(.*?)```", path.read_text("utf-8"), flags=re.S)


def data_commands() -> list[str]:
    """The lines to type of the guide to data that need no network."""
    return "".join(blocks(DATA_GUIDE, "sh")).splitlines()


def commands() -> list[str]:
    """The lines to type of README and guides, in the order in which they are meant."""
    lines = "".join(block for path in GUIDES for block in blocks(path, "sh")).splitlines()
    return [line for line in lines if "btc-" in line]
