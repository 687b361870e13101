"""Gives the site the documents that lie outside of docs/, and turns links between them.

In the repository a link leads from file to file, so that it works where the files are read; on the
site, docs/ is the top. A hook of MkDocs, see mkdocs.yml.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
BESIDE = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "NOTICE",
    "requirements-device-minimal.txt", "benchmarks/research.md", "benchmarks/results/*.*",
    "benchmarks/results/large/*.*",
)  # fmt: skip
LINK = re.compile(r"(\]\()([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents outside of docs/, under their own paths."""
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    here = page.file.src_uri
    docs = here not in {file.src_uri for file in files if file.generated_by}
    return LINK.sub(lambda match: match[1] + _on_site(match[2], here, docs), markdown)


def _on_site(link: str, here: str, docs: bool) -> str:
    """Where a link of the page `here` leads on the site."""
    if "://" in link or link.startswith("mailto:"):
        return link
    home = posixpath.dirname(f"docs/{here}" if docs else here)
    target = posixpath.normpath(posixpath.join(home, link)).removeprefix("docs/")
    return posixpath.relpath(target, posixpath.dirname(here) or ".")
