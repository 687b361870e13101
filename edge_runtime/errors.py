"""The one error family: every problem a user can cause or meet is a `BtcError`.

A command prints the message as a single line on stderr and exits with `exit_code`; code that
embeds the packages catches the class it can handle. Messages say what is wrong and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes shared by all commands."""

    OK = 0
    FAILED = 1  # some inputs, or the job itself, failed
    USAGE = 2  # the command line or the environment must change first
    MODEL = 3  # the model cannot be used
    INTERRUPTED = 130


class BtcError(Exception):
    """Base of all errors that are meant for a user's eyes."""

    exit_code: ExitCode = ExitCode.FAILED


class InputError(BtcError):
    """One input (an image, a list entry) cannot be read or used."""


class DataError(BtcError):
    """A data set, a table beside it or a run folder cannot be used as asked."""


class ModelError(BtcError):
    """A model file is missing, damaged, altered or not understood by this version."""

    exit_code = ExitCode.MODEL


class UnsignedModelError(ModelError):
    """A model file has no digest that it could be checked by."""


class BackendError(ModelError):
    """No usable interpreter for the model on this machine."""


class UsageError(BtcError):
    """Options that do not go together, or a package that must be installed first."""

    exit_code = ExitCode.USAGE


def one_line(error: BaseException) -> str:
    """The error's message folded to one printable line (its class name if it has none)."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def needs_package(message: str) -> bool:
    """Whether an error says that a package must be installed first, which is no fault of the
    input. Answers hold words alone."""
    return re.search(r"\bneeds? the package \S", message) is not None


def printable(text: str) -> str:
    """`text` with `?` for what could break a line or steer a terminal (file names can)."""
    return "".join(c if c.isprintable() else "?" for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest of the known words, to end a message with; empty where
    none is near."""
    from difflib import get_close_matches  # only for a message

    words = {each.lower(): each for each in known}
    near = get_close_matches(word.lower(), words, 1)
    return f"; did you mean {words[near[0]]!r}?" if near else ""
