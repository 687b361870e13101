"""How every command ends: a line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from edge_runtime.errors import BtcError, ExitCode, one_line


def run_command(command: click.Command, name: str, extra: str | None = None) -> NoReturn:
    """Run a click command as the process's main job and exit.

    Args:
        name: what stderr lines begin with.
        extra: the extra that brings the command's packages, named when one is missing.
    """
    _mend_streams()
    _hush()
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        _say(name, error.format_message())
        code = ExitCode.USAGE
    except BtcError as error:
        _say(name, one_line(error))
        code = error.exit_code
    except ModuleNotFoundError as error:
        hint = f"pip install 'btc-edge[{extra}]'" if extra else "pip install --upgrade btc-edge"
        _say(name, f"the package {error.name} is missing: {hint}")
        code = ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        _say(name, "interrupted")
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # the reader has gone
        code = ExitCode.OK
    except MemoryError:
        _say(name, "not enough memory for this")
        code = ExitCode.FAILED
    except OSError as error:
        _say(name, one_line(error))
        _drop_output()
        code = ExitCode.FAILED
    except Exception as error:
        if os.environ.get("BTC_DEBUG"):
            raise
        _say(name, f"unexpected {type(error).__name__}: {one_line(error)} (BTC_DEBUG=1 for more)")
        code = ExitCode.FAILED
    sys.exit(int(code or 0))


def _drop_output() -> None:
    """Send what stdout still holds to nowhere if it cannot be written: it must not raise again at
    exit, where Python would answer with a code of its own."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _mend_streams() -> None:
    """Open closed standard streams on nothing, and let any file name pass through them.

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
    sys.stderr = os.fdopen(kept, "w", buffering=1, encoding=old.encoding, errors=old.errors)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _say(name: str, message: str) -> None:
    print(f"{name}: {message}", file=sys.stderr)
