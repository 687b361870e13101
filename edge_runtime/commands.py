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
        # The reader has gone; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    except MemoryError:
        _say(name, "not enough memory for this")
        code = ExitCode.FAILED
    except OSError as error:
        _say(name, one_line(error))
        code = ExitCode.FAILED
    sys.exit(int(code or 0))


def _say(name: str, message: str) -> None:
    print(f"{name}: {message}", file=sys.stderr)
