"""How every command ends: a line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import click

from edge_runtime.errors import BtcError, ExitCode, did_you_mean, one_line, printable


class ReaderLeft(BaseException):
    """Nobody reads stdout any more (`| head`). No `OSError`: click and rich would end the process
    with code 1 for one."""


class OutputError(BtcError):
    """stdout cannot be written, as on a full disk."""


def run_command(command: click.Command, name: str, extra: str | None = None) -> NoReturn:
    """Run a click command as the process's main job and exit.

    A reader of stdout that leaves early is no failure: the command ends there with code 0 and says
    nothing. Where an exit code tells what was found, print `to_the_reader`.

    Args:
        name: what stderr lines begin with.
        extra: the extra that brings the command's packages, named when one is missing.
    """
    _mend_streams()
    _hush()
    code = _run(command, name, extra)
    try:  # now, since at exit Python would answer with a code of its own
        sys.stdout.flush()
    except ReaderLeft:
        pass
    except OutputError as error:
        _say(name, one_line(error))
        code = code or error.exit_code
    sys.exit(code)


def _run(command: click.Command, name: str, extra: str | None) -> int:
    """The exit code of a command, whose last words have been said."""
    try:
        return int(command.main(prog_name=name, standalone_mode=False) or ExitCode.OK)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.NoSuchOption as error:  # whose words differ between versions of click
        near = did_you_mean(error.option_name, error.possibilities or ())
        _say(name, f"No such option {error.option_name!r}{near}")
        return ExitCode.USAGE
    except click.ClickException as error:
        _say(name, error.format_message())
        return ExitCode.USAGE
    except BtcError as error:
        _say(name, one_line(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        hint = f"pip install 'btc-edge[{extra}]'" if extra else "pip install --upgrade btc-edge"
        _say(name, f"the package {error.name} is missing: {hint}")
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        _say(name, "interrupted")
        return ExitCode.INTERRUPTED
    except ReaderLeft:
        return ExitCode.OK
    except MemoryError:
        _say(name, "not enough memory for this")
        return ExitCode.FAILED
    except OSError as error:
        _say(name, _with_its_file(error))
        return ExitCode.FAILED
    except Exception as error:
        if os.environ.get("BTC_DEBUG"):
            raise
        _say(name, f"unexpected {type(error).__name__}: {one_line(error)} (BTC_DEBUG=1 for more)")
        return ExitCode.FAILED


@contextmanager
def to_the_reader() -> Iterator[None]:
    """Print to stdout within. A reader that leaves early does not end the command: what follows is
    done, and its exit code is the one that it would have had."""
    with suppress(ReaderLeft):
        yield
        sys.stdout.flush()


@contextmanager
def loading() -> Iterator[None]:
    """Import and open within what stays until the end. The garbage collector looks at none of it:
    not while it comes, which would take as long as opening the model, nor ever after (at exit,
    Python would go through all of it once more)."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()


def next_command(words: Sequence[str | os.PathLike[str]]) -> None:
    """Say on stderr which command comes next, quoted for a shell; only to a terminal, so that no
    script has to read past it. Files are paths, not text. Nothing is said where a name does not
    show as it is: the line would name another file."""
    if not sys.stderr.isatty():
        return
    import shlex

    line = shlex.join(map(_as_word, words))
    if printable(line) == line:
        with suppress(OSError):
            print(f"next: {line}", file=sys.stderr)


def _as_word(word: str | os.PathLike[str]) -> str:
    """A word of a command line; a path is none of its options, even if it begins like one."""
    if isinstance(word, str):
        return word
    text = os.fspath(word)
    return f".{os.sep}{text}" if text.startswith("-") else text


def _with_its_file(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return one_line(error)
    return f"{printable(os.fsdecode(error.filename))}: {error.strerror}"


class _Answers(io.TextIOWrapper):
    """stdout, which says what is wrong with it and then leads nowhere: what it still holds must
    not be tried again at exit."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
        )
        self._replaced = stream  # its end would close the buffer that both write to

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise self._end(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._end(error) from None

    def _end(self, error: OSError) -> BaseException:
        _to_nowhere(self.fileno())
        if isinstance(error, BrokenPipeError):
            return ReaderLeft()
        return OutputError(f"standard output: {error.strerror}")


class _Messages(io.TextIOWrapper):
    """stderr. What cannot be written there is lost: a full disk, or a reader that has left, must
    not end a training."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            _to_nowhere(self.fileno())
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _to_nowhere(self.fileno())


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _mend_streams() -> None:
    """Open closed standard streams on nothing, and let any file name pass through them; stdout
    tells how it ends.

    A closed descriptor would otherwise be given to the next file that is opened.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            opened = os.open(os.devnull, os.O_WRONLY if number else os.O_RDONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if number else "surrogateescape")
    if type(sys.stdout) is io.TextIOWrapper:
        sys.stdout = _Answers(sys.stdout)


def _hush() -> None:
    """Keep native code (image libraries, interpreters) from writing to stderr past Python.

    Our own lines go to a copy of the descriptor; 2 itself leads nowhere, unless BTC_DEBUG is set.
    """
    if os.environ.get("BTC_DEBUG"):
        return
    try:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError, AttributeError):
        return
    old = sys.stderr
    sys.stderr = _Messages(
        os.fdopen(kept, "wb"), encoding=old.encoding, errors=old.errors, line_buffering=True
    )
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _say(name: str, message: str) -> None:
    with suppress(OSError):
        print(f"{name}: {message}", file=sys.stderr)
