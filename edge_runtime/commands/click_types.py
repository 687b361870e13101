"""Kinds of options, words and commands that click does not have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    """A group of commands; a typo is answered with the nearest, as click does from 8.4 on."""

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


class GroupedCommand(click.Command):
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
