"""`btc-audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edge_runtime
from edge_runtime.commands.click_types import Choice
from edge_runtime.commands.entry import next_command, to_the_reader
from edge_runtime.commands.options import HELP
from edge_runtime.errors import ExitCode, UsageError, printable
from trainer.commands.options import data_argument, no_card_option, with_cards
from trainer.commands.progress import add_bar, progress_bars
from trainer.commands.terminal import FOLDER, TABLE, enter, say, say_problem

if TYPE_CHECKING:
    from trainer.audit.examine import Audit

EXIT_CODES = (
    "\b\nExit codes: 0 no test image has a near-duplicate in training, 1 one has, a class has\n"
    "test but no training images, or the data cannot be used, 2 usage or a missing package,\n"
    "130 interrupted."
)


@click.command("btc-audit", context_settings=HELP, epilog=EXIT_CODES)
@data_argument
@click.option(
    "--groups",
    type=TABLE,
    help="CSV (path, group; optionally label, source, patient) to check against the pictures.",
)
@click.option(
    "--out",
    type=FOLDER,
    default=Path("audit"),
    show_default=True,
    help="Folder for audit.html, audit.json, groups.csv and data.toml; a groups.csv that is not "
    "an audit's is not replaced.",
)
@click.option(
    "--format", "style", type=Choice(["table", "json"]), default="table", show_default=True
)
@no_card_option
@click.version_option(edge_runtime.__version__, prog_name="btc-audit")
@click.pass_context
def audit_command(
    context: click.Context,
    /,
    data: tuple[Path, ...],
    groups: Path | None,
    no_card: bool,
    out: Path,
    style: str,
) -> None:
    """Check DATA (a zip or folder) before anything is measured on it.

    Finds test images that are copies of training images, also mirrored or turned ones,
    near-duplicates with different labels, damaged and odd files, and what gives the class away.
    Leaves a page, the figures, a groups.csv for btc-train and, for data without one, a data.toml
    to put beside them.
    A data.toml in the folder, or NAME.toml beside NAME.zip, names the groups; --groups overrides
    it. Several DATA, each with its own card, are checked together; then a path in the table of
    --groups begins with the name of its DATA. Research use only.
    """
    from trainer.audit.examine import audit
    from trainer.audit.page import check_out, write_audit
    from trainer.data.card import NAME
    from trainer.data.collection import collections_of, open_data
    from trainer.run import dump_json

    asked: dict[str, Any] = {"groups": groups, "no_card": no_card}
    named, asked, _, has_card = with_cards(data, asked, ("groups",))
    tables = (asked["groups"], *(each.groups_csv for each in collections_of(named)))
    for known in tables:
        if known and (out / "groups.csv").exists() and known.samefile(out / "groups.csv"):
            raise UsageError(f"--out {out} would replace the table of groups, {known}")
    check_out(out)
    out.mkdir(parents=True, exist_ok=True)  # before minutes of work
    with progress_bars() as bars:
        found = audit(
            named,
            asked["groups"],
            reading=add_bar(bars, "Reading"),
            comparing=add_bar(bars, "Comparing"),
        )
    for problem in found.result["unreadable"]:
        say_problem(problem["path"], problem["reason"])
    for each in found.passed_over:
        say_problem(each.words, each.reason)
    for words in found.warnings:
        say(f"btc-audit: {words}")
    for label in found.untrainable:
        say(f"{label}: test images, but none to learn from")
    for label in found.result["one_sided"]["no_test_images"]:
        say(f"{label}: no test images")
    write_audit(found, open_data(named), out)
    # Of several DATA each has a card of its own.
    to_write = isinstance(named, Path) and not has_card
    written = to_write and _write_card(found, data[0], out / NAME)
    with to_the_reader():
        if style == "json":
            click.echo(dump_json(found.result, ascii_only=True), nl=False)
        else:
            _print_audit(found.result, out, written)
    also = (*protocol_option(found), *["--no-card"] * no_card)
    # A training joins the groups of the cards' tables as the audit did. Slices of partly known
    # class may name them; in the audit's table those that were joined are gone.
    of_cards = groups is None and any(tables)
    table: list[str | Path] = [] if of_cards else ["--groups", out / "groups.csv"]
    next_command(["btc-train", *data, *table, *also])
    failed = found.leaks or found.untrainable
    context.exit(int(ExitCode.FAILED if failed else ExitCode.OK))


def protocol_option(found: Audit) -> tuple[str, ...]:
    """The option of btc-train for a protocol whose test side measures something."""
    if found.result["leak"]["test_images"] and not found.leaks:
        return ()
    return ("--protocol", "grouped")


def _write_card(found: Audit, data: Path, path: Path) -> bool:
    """Write a data card to complete, and whether it was; one that is there may have been
    completed, and stays."""
    from edge_runtime.files import write_text
    from edge_runtime.labels import NO_TUMOR
    from trainer.data.card import card_text

    if path.exists():
        say(f"{path} is there already and stays as it is")
        return False
    counts = found.result["counts"]
    classes = {label: sum(splits.values()) for label, splits in counts["classes"].items()}
    sources = {name for of_class in counts.get("sources", {}).values() for name in of_class}
    text = card_text(
        None if data.is_dir() else data.name,
        classes,
        sorted(sources - {""}),
        [label for label in classes if label == NO_TUMOR],
    )
    write_text(path, text)
    return True


def main() -> None:
    """Entry point of btc-audit."""
    enter(audit_command, "btc-audit")


def _print_audit(result: dict[str, Any], out: Path, card: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from edge_runtime.model.metadata import INTENDED_USE

    console = Console(file=sys.stdout)
    table = Table("check", "found", box=None, padding=(0, 3, 0, 0))
    for check, found in _checks(result):
        table.add_row(check, found)
    console.print(table, highlight=False)
    leak = result["leak"]
    if leak["test_images"]:
        classes = Table("class", "test images", "with near-duplicate in training")
        for label, row in leak["by_class"].items():
            classes.add_row(
                printable(label),
                f"{row['test_images']:,}",
                f"{row['with_near_duplicate_in_training']:,}",
            )
        console.print(classes, highlight=False, markup=False)
    files = "audit.html, audit.json, groups.csv" + ", data.toml" * card
    click.echo(printable(f"Audit: {out}  ({files})"))
    click.echo(INTENDED_USE)
    click.echo(result["answer"])


def _checks(result: dict[str, Any]) -> list[tuple[str, str]]:
    """One line for each check: its name and what was found."""
    copies, alike, groups = result["exact_copies"], result["near_duplicates"], result["groups"]
    shortcuts = result["shortcuts"]
    away = ", ".join(shortcuts["above_chance"]) or "nothing"
    if shortcuts["reason"]:
        away = f"not measured: {shortcuts['reason']}"
    oddities = [f"{kind['count']:,} {name.replace('_', ' ')}"
                for name, kind in result["oddities"].items() if kind["count"]]  # fmt: skip
    rows = [
        ("images", f"{result['images']:,} read, {len(result['unreadable']):,} unusable"),
        ("exact copies", f"{copies['same_pixels']['sets']:,} sets"),
        (
            "near-duplicates",
            f"{alike['images_with_near_duplicate']:,} images, {alike['clusters']:,} clusters",
        ),
        ("conflicting labels", f"{result['conflicts']['count']:,} pairs"),
        ("odd files", ", ".join(oddities) or "none"),
        ("passed over", f"{sum(each['count'] for each in result['passed_over']):,} files"),
        (
            "class given away by",
            away,
        ),
    ]
    if groups["table"]:
        split = groups["table"]["clusters_split"]["count"]
        patients = groups["table"]["patients_on_both_sides"]["count"]
        rows.append(
            (
                "groups",
                f"{groups['given']:,} given, {groups['merged']:,} after joining near-duplicates",
            )
        )
        rows.append(("clusters split by the table", f"{split:,}"))
        rows.append(("patients on both sides", f"{patients:,}"))
    else:
        rows.append(("groups", f"{groups['merged']:,} by looks"))
    return rows
