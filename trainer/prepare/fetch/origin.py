"""Where a version of a collection comes from: what every such place can do, and how it fails."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from edge_runtime.errors import DataError, one_line
from edge_runtime.files import write_text
from edge_runtime.json_text import parse_json
from trainer.data.card import CONTROLS

Bar = Callable[[], AbstractContextManager[Callable[[int, int], None]]]

ATTEMPTS = 5  # of a download that is cut off, as long as each brings something
CHUNK = 1 << 20
LONGEST = 2000  # characters of a text in a card, which as a whole may have 64 KiB
GIB = 1 << 30

_TRANSPORT = frozenset({"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"})


@dataclass(frozen=True)
class Told:
    """What a service says of a version of a collection; empty where it says nothing.

    Attributes:
        size: bytes of the download.
        digests: SHA-256 of files by their paths, where the service states them.
    """

    title: str = ""
    license: str = ""
    citation: str = ""
    url: str = ""
    version: str = ""
    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Desk:
    """What a download goes by.

    Attributes:
        part: where it may keep what has come so far; the folder is there.
        announce: is told what the service says before anything comes, and refuses what is too
            large with a DataError.
        most: bytes.
        bar: shows how far a download is that no library shows; is told the MiB that have come, and
            of how many.
    """

    part: Path
    announce: Callable[[Told], None]
    most: int
    bar: Bar


class Origin(Protocol):
    """A version of a collection at a service."""

    @property
    def spec(self) -> str:
        """As it was asked for, without secrets: for messages."""
        ...

    @property
    def key(self) -> str:
        """Tells it from all other versions of all collections."""
        ...

    @property
    def name(self) -> str:
        """Of the collection, or of its one file."""
        ...

    @property
    def source(self) -> str:
        """The source's name in the tables, where nobody gives one."""
        ...

    @property
    def sha256(self) -> str:
        """Of the file that comes; empty where several come."""
        ...

    def bare(self) -> Told:
        """What is known without asking."""
        ...

    def cached(self, told: Told | None) -> Path | None:
        """The whole collection where an earlier download left it, without a connection: a folder,
        or a file. None where it is not there.

        Args:
            told: what the service said then, where that is known.
        """
        ...

    def obtain(self, desk: Desk) -> tuple[Told, Path]:
        """Ask the service, announce what it says, and download what is not yet there.

        Raises:
            DataError: one line on why it does not come, and what to do.
        """
        ...

    def links_into(self, folder: Path) -> Path | None:
        """The folder that links of a cached collection may lead into; None where it has none."""
        ...


def plain(value: object) -> str:
    """A text for a card, in one line that is no longer than one reads, without characters that do
    not show, which no card may have; of a list, its texts."""
    if isinstance(value, list):
        return plain(", ".join(each for each in value if isinstance(each, str)))
    words = value.split() if isinstance(value, str) else []
    shown = "".join(each for each in " ".join(words) if unicodedata.category(each) not in CONTROLS)
    return shown[:LONGEST]


def cache_folder() -> Path:
    """Where files of URLs, and what services said, are kept by the XDG base directory
    specification: `$XDG_CACHE_HOME/btc-edge/fetch`, or `~/.cache/btc-edge/fetch`."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "btc-edge" / "fetch"


def remembered(key: str) -> Told | None:
    """What a service said of this version when it was asked; None where nobody remembers."""
    try:
        said = parse_json(_note(key).read_text(encoding="utf-8"))
        told = Told(**said)
    except (OSError, ValueError, TypeError):
        return None
    texts = (told.title, told.license, told.citation, told.url, told.version)
    whole = all(isinstance(text, str) for text in texts) and isinstance(told.digests, dict)
    return told if whole else None


def remember(key: str, told: Told) -> None:
    """Keep what a service said, so that the same version gives the same card later."""
    write_text(_note(key), json.dumps(asdict(told), sort_keys=True) + "\n")


def _note(key: str) -> Path:
    return cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what kagglehub and huggingface_hub print and log from our own lines; their progress
    bars stay in a terminal. They report nothing about their use, and ask for no newer version."""
    os.environ |= {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
    }
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere),
            nullcontext() if sys.stderr.isatty() else redirect_stderr(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def is_cut(error: BaseException) -> bool:
    """Whether an error is one of the connection, not of what was asked for."""
    return _status(error) is None and any(_of_transport(each) for each in _causes(error))


def failure(what: str, service: str, login: str, error: BaseException) -> BaseException:
    """What to raise for an error of a download: a DataError of one line; a full disk as it is.

    Args:
        what: the collection.
        service: whose it is.
        login: how to sign in there.
    """
    for each in _causes(error):
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            return DataError(
                f"{what}: the disk is full; make room, and give the same command again: it goes on"
            )
    status = _status(error)
    if status is None:
        if is_cut(error):
            return DataError(
                f"{what}: no connection to {service}, or it was cut off "
                f"({type(error).__name__}); give the same command again: it goes on"
            )
        if isinstance(error, OSError) and error.filename is not None:
            return error
        return DataError(
            f"{what}: what {service} answered is not understood "
            f"({type(error).__name__}: {one_line(error)[:200]})"
        )
    return DataError(f"{what}: {_refusal(status, service, login, _waiting(error))}")


def _refusal(status: int, service: str, login: str, wait: str) -> str:
    if status in (401, 403):
        return (
            f"{service} does not give it ({status}): it is private, its terms must be accepted on "
            f"its page first, or there is no such thing; sign in: {login}"
        )
    if status in (404, 410):
        return f"not found ({status}): {service} has no such collection or version"
    if status == 429:
        return f"{service} has had too many requests (429); try again {wait or 'later'}"
    if status >= 500:
        return f"{service} is in trouble ({status}); try again {wait or 'later'}"
    return f"{service} refuses it ({status})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what led to it."""
    seen: list[BaseException] = []
    waiting: BaseException | None = error
    while waiting is not None and waiting not in seen:
        seen.append(waiting)
        yield waiting
        waiting = waiting.__cause__ or waiting.__context__


def _status(error: BaseException) -> int | None:
    """The code of the answer that an error is about, whichever library raised it; Kaggle may say
    it in an answer that is marked as a success."""
    for each in _causes(error):
        response = getattr(each, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int) and status < 400 and response is not None:
            with suppress(Exception):
                status = response.json()["code"]
        if isinstance(status, int) and status >= 400:
            return status
    return None


def _waiting(error: BaseException) -> str:
    for each in _causes(error):
        headers = getattr(getattr(each, "response", None), "headers", None) or {}
        seconds = str(headers.get("Retry-After", ""))
        if seconds.isdecimal():
            return f"in {int(seconds):,} seconds"
    return ""


def _of_transport(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in _TRANSPORT or isinstance(
        error, (ConnectionError, TimeoutError)
    )
