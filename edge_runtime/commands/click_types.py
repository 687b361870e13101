"""Kinds of options, words and commands that click does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from edge_runtime.errors import did_you_mean


class FiniteRange(click.FloatRange):
    """A number within bounds; `nan`, which is within and beyond any, is refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a number to go by.", param, ctx)
        return number


OTHER = "Other options"


class Choice(click.Choice):  # type: ignore[type-arg]  # no generic class before click 8.4
    """One of some words; a typo is answered with the nearest.

    Args:
        former: what an older version called a word -> the word; taken, but not shown.
    """

    def __init__(self, choices: Sequence[str], former: Mapping[str, str] | None = None) -> None:
        super().__init__(choices)
        self._former = dict(former or {})

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(self._former.get(value, value), param, ctx)
        except click.BadParameter as error:
            self.fail(error.message.rstrip(".") + did_you_mean(value, self.choices), param, ctx)


class Commands(click.Group):
    """A group of commands; a typo is answered with the nearest, as click does from 8.4 on.

    Args:
        later: name -> first sentence of its help: commands that are imported when they are asked
            for, each from the module of its name in `package`. The list of all imports none.
        each: done to such a command when it comes, as a decorator.
        package: of these modules.
    """

    def __init__(
        self,
        *args: Any,
        later: Mapping[str, str] | None = None,
        each: Callable[[click.Command], click.Command] = lambda command: command,
        package: str = __package__,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self._later, self._each, self._package = dict(later or {}), each, package

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *self._later})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._later and cmd_name not in self.commands:
            module = import_module(f"{self._package}.{cmd_name}")
            self.add_command(self._each(getattr(module, cmd_name)), cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        listed = {name: click.Command(name, help=text) for name, text in self._later.items()}
        click.Group(self.name, {**listed, **self.commands}).format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = name.startswith("-") or self.get_command(ctx, name) is not None
        if not known and not ctx.resilient_parsing:
            near = did_you_mean(name, self.list_commands(ctx))
            raise click.UsageError(f"No such command {name!r}{near}", ctx)
        return super().resolve_command(ctx, args)


class Option(click.Option):
    """An option of a `GroupedCommand`.

    Args:
        group: the title under which `--help-all` shows it.
        common: whether `--help` shows it too.
    """

    def __init__(
        self, *args: Any, group: str = OTHER, common: bool = False, **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self.group = group
        self.common = common


class Command(click.Command):
    """A command that answers a typo with the options of today, not with their hidden former
    names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from difflib import get_close_matches  # only for a message

            shown = [p for p in self.params if not getattr(p, "hidden", False)]
            words = [word for p in shown for word in p.opts if word.startswith("--")]
            near = get_close_matches(error.option_name, words) if error.possibilities else []
            raise click.NoSuchOption(error.option_name, possibilities=near, ctx=ctx) from None


class GroupedCommand(Command):
    """A command of many options: `--help` shows those that most people need, `--help-all` all of
    them by group."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.append(
            click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=self._show_all,
                help="Show every option and exit.",
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        hidden = 0
        for param in self.get_params(ctx):
            line = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if line is None:
                continue
            group, common = OTHER, True
            if isinstance(param, Option):
                group, common = param.group, param.common
            if ctx.meta.get(_ALL):
                sections.setdefault(group, []).append(line)
            elif common:
                sections.setdefault("Common options", []).append(line)
            else:
                hidden += 1
        for title, lines in sections.items():
            with formatter.section(title):
                formatter.write_dl(lines)
        if hidden:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(f"{hidden} more options: {ctx.command_path} --help-all")

    def _show_all(self, ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            ctx.meta[_ALL] = True
            click.echo(ctx.get_help())
            ctx.exit()


_ALL = f"{__name__}.all"  # in a context: every option is shown
