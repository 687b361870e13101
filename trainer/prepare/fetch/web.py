"""A file of a URL, proved by its digest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from edge_runtime.errors import DataError, printable
from edge_runtime.files import replacing
from edge_runtime.imaging.kinds import HEAD, unsupported_format
from edge_runtime.imaging.limits import MIB
from trainer.prepare.fetch.origin import (
    ATTEMPTS,
    CHUNK,
    GIB,
    Desk,
    Told,
    cache_folder,
    failure,
    file_digest,
    is_cut,
    quiet_libraries,
)

if TYPE_CHECKING:
    import requests

Advance = Callable[[int, int], None]

REDIRECTS = 5
LONGEST = 60  # characters of a file's name; a file system takes 255 bytes
TIMEOUTS = (10, 60)  # seconds: for a connection, and between two bytes
LOGIN = "download it with a browser"
_SECRETS = re.compile("sig|token|secret|key|credential|password|auth|private", re.IGNORECASE)


@dataclass(frozen=True)
class Web:
    """See `Origin`.

    Attributes:
        url: http or https, without a name and password.
        sha256: of the file, in lower case.
    """

    url: str
    sha256: str

    @property
    def spec(self) -> str:
        """The address, without a query that may hold a secret."""
        parts = urlsplit(self.url)
        query = "" if _SECRETS.search(parts.query) else parts.query
        return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))

    @property
    def key(self) -> str:
        return f"{self.spec} {self.sha256}"

    @property
    def name(self) -> str:
        """What the file is called, without a folder."""
        last = unquote(urlsplit(self.url).path).replace("\\", "/").rpartition("/")[2]
        return printable(last.replace(":", "_"))[-LONGEST:].lstrip(".") or "download"

    @property
    def source(self) -> str:
        return self.name.partition(".")[0]

    def bare(self) -> Told:
        return Told(url=self.spec)

    def links_into(self, folder: Path) -> Path | None:
        return None

    def cached(self, told: Told | None) -> Path | None:
        """The file by its digest; a damaged one is deleted."""
        place = self._place()
        if not place.is_file():
            return None
        if file_digest(place) != self.sha256:
            place.unlink()
            return None
        return place

    def obtain(self, desk: Desk) -> tuple[Told, Path]:
        """Download the file, or go on with what came before.

        What began with an earlier part and does not fit the digest is downloaded anew once. A file
        of another digest is kept under its own: whoever means it need not download it again.
        """
        with quiet_libraries():
            import requests

        part = desk.part
        for anew in (False, True):
            begun = part.is_file()
            if begun and not anew and file_digest(part) == self.sha256:
                told = Told(url=self.spec, size=_size(part))
                desk.announce(told)
            else:
                with desk.bar() as advance:
                    told = self._attempts(requests.Session(), desk, advance)
            found = file_digest(part)
            if found == self.sha256:
                return told, _keep(part, found)
            if not begun:
                break
            part.unlink()
        raise self._other(part, found)

    def _place(self) -> Path:
        return cache_folder() / self.sha256

    def _other(self, part: Path, found: str) -> DataError:
        """What to say of a file of another digest; it is no longer in its place."""
        with open(part, "rb") as stream:
            what = unsupported_format(stream.read(HEAD)) or ""
        if what.endswith("HTML page"):
            part.unlink()
            return DataError(
                f"{self.spec}: what came is {what}, not the file; open it in a browser, which may "
                "ask you to sign in"
            )
        _keep(part, found)
        return DataError(
            f"{self.spec}: what came has the SHA-256 {found}, not {self.sha256}: the file there is "
            f"another one, or --sha256 is wrong. If it is the one that you mean, --sha256 {found} "
            "takes it from the cache"
        )

    def _attempts(self, session: requests.Session, desk: Desk, advance: Advance) -> Told:
        import requests
        import urllib3

        session.max_redirects = REDIRECTS
        for attempt in range(ATTEMPTS):
            before = _size(desk.part)
            try:
                return self._continue(session, desk, advance)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                came = _size(desk.part) > before
                if attempt < ATTEMPTS - 1 and came and is_cut(error):
                    continue
                raise failure(self.spec, self._host(), LOGIN, error) from None
        raise AssertionError("the last attempt returns or raises")

    def _host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def _continue(self, session: requests.Session, desk: Desk, advance: Advance) -> Told:
        """Ask for what is missing, and write it behind what is there; a server that sends all of
        it anew is taken at its word."""
        have = _size(desk.part)
        headers = {"Accept-Encoding": "identity", "User-Agent": "btc-data"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with session.get(self.url, headers=headers, stream=True, timeout=TIMEOUTS) as answer:
            other_part = answer.status_code == 206 and not _begins_at(answer, have)
            if have and (answer.status_code == 416 or other_part):
                desk.part.unlink()
                return self._continue(session, desk, advance)
            answer.raise_for_status()
            if answer.status_code not in (200, 206):
                raise DataError(f"{self.spec}: the server answers {answer.status_code}, no file")
            if answer.status_code == 200:
                have = 0
            length = answer.headers.get("Content-Length", "")
            total = have + int(length) if length.isdecimal() else None
            told = Told(url=self.spec, size=total)
            desk.announce(told)
            try:
                with open(desk.part, "ab" if have else "wb") as stream:
                    for come in self._bytes(answer, have, desk.most):
                        stream.write(come)
                        have += len(come)
                        advance(have // MIB, (total or have) // MIB)
            except DataError:
                desk.part.unlink()
                raise
        return told

    def _bytes(self, answer: requests.Response, have: int, most: int) -> Iterator[bytes]:
        """Bytes as they come: what a server packed for the way would not fit the digest."""
        for chunk in answer.raw.stream(CHUNK, decode_content=False):
            have += len(chunk)
            if have > most:
                raise DataError(
                    f"{self.spec}: more than {most / GIB:g} GiB came, the limit of --max-size"
                )
            yield chunk


def _keep(part: Path, digest: str) -> Path:
    """Move a whole file into the cache."""
    place = cache_folder() / digest
    with replacing(place) as kept:
        shutil.move(part, kept)
    return place


def _begins_at(answer: requests.Response, have: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
