"""`btc-export`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edge_runtime
from edge_runtime.commands.click_types import Choice, FiniteRange, GroupedCommand
from edge_runtime.commands.entry import next_command, run_command, to_the_reader
from edge_runtime.commands.options import HELP, is_given
from edge_runtime.errors import ExitCode, UsageError, did_you_mean, printable
from export.formats import AI_EDGE, FORMATS, QUANTIZERS, TENSORFLOW, Format
from trainer.commands.options import IDENTITY, identity_options, option, threshold_options

if TYPE_CHECKING:
    from export.exporter import Exported, Exporter
    from trainer.run import Run

EXIT_CODES = (
    "\b\nExit codes: 0 every file passed, 1 a file is outside its tolerance or RUN holds no run, "
    "2 usage, no folder RUN or a missing package, 3 the run has no finished model, a conversion "
    "failed or a verified file is not in order, 130 interrupted."
)
_OF_VERIFY = ("verify", "signature", "public_key")
_OF_PAGES = ("run", "web", "web_single_file", "out")
_OF_CALIBRATION = ("calibration_images", "calibration", "seed")
_OF_FILES = (
    *("name", "model_version", "target_error", "max_error", "confidence", "licence", "sign"),
    *("runtimes", "min_agreement", "max_accuracy_drop", "max_class_drop", "max_probability"),
)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _format_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for each entry of the registry."""
    for form in reversed(FORMATS.values()):
        flag = option(
            f"--{form.name}", group="Formats", common=True, is_flag=True, help=form.about + "."
        )
        function = flag(function)
    return function


@click.command("btc-export", cls=GroupedCommand, context_settings=HELP, epilog=EXIT_CODES)
@click.argument("run", type=click.Path(exists=True, path_type=Path), required=False)
@_format_options
@option("--all", "everything", group="Formats", common=True, is_flag=True, help="All of these.")
@option(
    "--out",
    group="Files",
    common=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the files.  [default: RUN/export]",
)
@option(
    "--sign", group="Files", type=FILE, metavar="KEY", help="Sign each file with this private key."
)
@option(
    "--c-array",
    group="Files",
    is_flag=True,
    help="Also write the int8 graph as C++, for controllers.",
)
@option(
    "--web",
    group="Page",
    common=True,
    is_flag=True,
    help="A page that runs the model in a browser.",
)
@option(
    "--web-single-file",
    group="Page",
    is_flag=True,
    help="Likewise, as one file to open from a disk.",
)
@option(
    "--runtime",
    "runtimes",
    group="Files",
    multiple=True,
    metavar="NAME=PYTHON",
    help="Also fit and prove with a runtime of another environment, where this btc-edge is "
    "installed; may be repeated.",
)
@option(
    "--refit",
    group="Files",
    type=FILE,
    metavar="FILE",
    help="Add rules for more runtimes to a model file of RUN; its graph stays.",
)
@option("--diagnose", group="Files", is_flag=True, help="Tell what each layer loses as int8.")
@identity_options(None, "the run's")
@option("--license", "licence", group=IDENTITY, help="Licence to state in the model file.")
@option(
    "--calibration-images",
    group="Calibration",
    type=click.IntRange(1, 1024),
    default=64,
    show_default=True,
    help="How many images the quantiser sees.",
)
@option(
    "--calibration",
    group="Calibration",
    type=FOLDER,
    help="Images of your own for the quantiser.  [default: the run's]",
)
@option(
    "--seed",
    group="Calibration",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of their choice.",
)
@option(
    "--quantizer",
    group="Calibration",
    type=Choice(list(QUANTIZERS)),
    default=TENSORFLOW,
    show_default=True,
    help="Who makes the int8 graph: TensorFlow's converter, or LiteRT's quantiser (the extra "
    "quantizer) from the float32 graph.",
)
@threshold_options("the run's", "the run's")
@option(
    "--min-agreement",
    group="Tolerances",
    type=FiniteRange(0, 1),
    help="Replaces each tolerance's; 1.5 images are always allowed.",
)
@option(
    "--max-accuracy-drop", group="Tolerances", type=FiniteRange(0, 1), help="Likewise; a share."
)
@option(
    "--max-class-drop", group="Tolerances", type=FiniteRange(0, 1), help="Likewise, of any class."
)
@option(
    "--max-probability",
    group="Tolerances",
    type=FiniteRange(0, 1),
    help="Replaces each tolerance's difference.",
)
@option(
    "--verify",
    group="Verification",
    common=True,
    type=FILE,
    metavar="FILE",
    help="Check a model file, and nothing else.",
)
@option(
    "--signature",
    group="Verification",
    type=FILE,
    help="For --verify.  [default: FILE.sig where it is]",
)
@option(
    "--public-key",
    group="Verification",
    type=FILE,
    help="For --verify: whose signature it must be.",
)
@click.version_option(edge_runtime.__version__, prog_name="btc-export")
@click.pass_context
def command(context: click.Context, /, run: Path | None, **options: Any) -> None:
    """Write the model of RUN for devices, and prove that it still answers as it was trained to.

    Each file is run as a device would run it, on the run's held-out images. A file outside its
    tolerance is kept aside as *.rejected and the command exits 1. A classical model has one
    format, --onnx.

    A page of the int8 file is written by --web and --web-single-file. RUN may then be such a file;
    without it the page is of the bundled model.
    """
    if options["verify"] is not None:
        _refuse_besides_verify(context)
        _verify(options["verify"], options["signature"], options["public_key"])
        return
    if options["signature"] or options["public_key"]:
        raise UsageError("--signature and --public-key go with --verify FILE")
    pages = options["web"] or options["web_single_file"]
    if pages:
        from export.web.site import litert_version

        litert_version()  # before a long export: what pages are made of is there
    if pages and (run is None or run.is_file()):
        _refuse_besides_pages(context)
        _pages_of(run, options)
        return
    if run is None:
        raise UsageError("name the folder of a run, or --verify FILE")
    if run.is_file():
        raise UsageError(f"{run.name} is a file: name the folder of a run, or add --web")
    wanted = [
        form
        for form in FORMATS.values()
        if options["everything"] or options[_key(form.name)] or (pages and form.name == "int8")
    ]
    if options["refit"] is not None:
        _refuse_besides_refit(context, wanted)
    elif not (wanted or options["diagnose"]):
        raise UsageError("name a format: " + ", ".join(f"--{n}" for n in (*FORMATS, "all")))
    if options["c_array"] and FORMATS["int8"] not in wanted:
        raise UsageError("--c-array writes the int8 graph: add --int8")
    if options["refit"] is None:
        _refuse_unused(context, wanted, options["diagnose"])
    folder = options["out"] or run / "export"
    with _signatures_of_today(folder, options["sign"]):
        _export(run, folder, [form.name for form in wanted], options)


def _refuse_besides_verify(context: click.Context) -> None:
    """Nothing is exported beside --verify: what asks for that must not be passed over.

    Raises:
        UsageError: RUN or another option was given.
    """
    words = {p.name: p.opts[0] for p in context.command.params if p.name not in _OF_VERIFY}
    given = [word for name, word in words.items() if name and is_given(context, name)]
    if given:
        names = ", ".join("RUN" if word == "run" else word for word in given)
        raise UsageError(
            f"--verify FILE checks a file and exports nothing; it does not take {names}"
        )


def _refuse_besides_pages(context: click.Context) -> None:
    """A finished file is not exported again: what asks for that must not be passed over.

    Raises:
        UsageError: another option than those of pages, or no folder for them.
    """
    words = {p.name: p.opts[0] for p in context.command.params if p.name not in _OF_PAGES}
    given = [word for name, word in words.items() if name and is_given(context, name)]
    if given:
        raise UsageError(
            f"a page of a finished model file takes --out and nothing else, not {', '.join(given)}"
        )
    if context.params["out"] is None:
        raise UsageError("a page of a finished model file: name a folder for it with --out FOLDER")


def _pages_of(file: Path | None, options: dict[str, Any]) -> None:
    """The pages of a finished file, by default of the bundled model."""
    from edge_runtime.model.load import bundled_model

    _write_pages(bundled_model() if file is None else file, options["out"], options)


def _write_pages(path: Path, out: Path, options: dict[str, Any]) -> None:
    """What --web and --web-single-file ask for, of a model file."""
    from edge_runtime.model.load import read_model
    from export.web.site import write_single, write_site

    file = read_model(path)
    name = f"{path.stem}-web"
    if options["web_single_file"]:
        write_single(out / f"{name}.html", file)
        click.echo(printable(f"web: {out / name}.html"), err=True)
    if options["web"]:
        write_site(out / name, file)
        click.echo(printable(f"web: {out / name}"), err=True)
        next_command(["python", "-m", "http.server", "--directory", out / name])


def _refuse_besides_refit(context: click.Context, wanted: list[Format]) -> None:
    """The graph of the file stays: what would make another must not be passed over.

    Raises:
        UsageError: a format, or an option of one.
    """
    words = {p.name: p.opts[0] for p in context.command.params}
    not_taken = (
        "diagnose",
        "c_array",
        "web",
        "web_single_file",
        "quantizer",
        "name",
        "model_version",
        "licence",
    )
    given = [f"--{form.name}" for form in wanted]
    given += [words[name] for name in (*not_taken, *_OF_CALIBRATION) if is_given(context, name)]
    if given:
        raise UsageError(f"--refit FILE keeps its graph; it does not take {', '.join(given)}")


def runtimes_of(words: tuple[str, ...]) -> dict[str, Path]:
    """What --runtime says: runtime -> Python.

    Raises:
        UsageError: no NAME=PYTHON, an unknown runtime, one that is named twice.
    """
    from edge_runtime.model.backends import BACKENDS

    found: dict[str, Path] = {}
    for word in words:
        name, _, python = word.partition("=")
        if name not in BACKENDS or not python:
            raise UsageError(
                f"--runtime {word}: give NAME=PYTHON, NAME one of {', '.join(BACKENDS)}"
                + did_you_mean(name, BACKENDS)
            )
        if name in found:
            raise UsageError(f"--runtime {name}=… is given twice")
        found[name] = Path(python)
    return found


def _refuse_unused(context: click.Context, wanted: list[Format], diagnose: bool) -> None:
    """What would be passed over without a word.

    Raises:
        UsageError: an option of calibration without a format that is calibrated, or one of files
            where none is written.
    """
    words = {p.name: p.opts[0] for p in context.command.params}
    calibrated = ", ".join(f"--{form.name}" for form in FORMATS.values() if form.calibrated)
    for names, used, needed in (
        (("quantizer",), diagnose or FORMATS["int8"] in wanted, "--int8"),
        (_OF_CALIBRATION, diagnose or any(form.calibrated for form in wanted), calibrated),
        (_OF_FILES, bool(wanted), "a format"),
    ):
        given = [words[name] for name in names if is_given(context, name)]
        if given and not used:
            raise UsageError(f"{', '.join(given)}: goes with {needed}")


def _key(name: str) -> str:
    """The parameter that click makes of an option's name."""
    return name.replace("-", "_")


def _verify(file: Path, signature: Path | None, public_key: Path | None) -> None:
    from export.verify import verify_file

    beside = file.with_name(file.name + ".sig")
    if signature is None and public_key is not None:
        if not beside.exists():
            raise UsageError(f"no {beside.name} beside it: name the signature with --signature")
        signature = beside
    for what, finding in verify_file(file, signature, public_key).findings:
        click.echo(printable(f"{what:<14} {finding}"))
    next_command(["btc-edge", "benchmark", "--model", file])


def _forms(settings: dict[str, Any], wanted: list[str], options: dict[str, Any]) -> list[Format]:
    """The formats to write, of those that a run's kind of model has.

    Raises:
        UsageError: it does not have one that was asked for by name.
    """
    from export.formats import formats_of
    from trainer.run import CNN

    kind = settings["model"]
    known = formats_of(kind)
    asked = [name for name in wanted if name in known or not options["everything"]]
    others = [name for name in asked if name not in known]
    if kind != CNN:
        others += [
            name
            for name in ("diagnose", "c-array", "web", "web-single-file")
            if options[_key(name)]
        ]
    if others:
        flags = ", ".join(f"--{name}" for name in others)
        raise UsageError(
            f"a classical model ({kind}) is exported with --onnx; for networks only: {flags}"
        )
    return [known[name] for name in asked]


@contextmanager
def _signatures_of_today(folder: Path, key: Path | None) -> Iterator[None]:
    """What is written without --sign leaves no signature of what was there before.

    Raises:
        UsageError: the key cannot be used, which is known before a long export.
    """
    from export.signing import check_key, no_stale_signature

    if key:
        check_key(key)

    def tell(name: str) -> None:
        line = f"btc-export: {name} was of the former file and is removed: --sign signs anew"
        click.echo(printable(line), err=True)

    with no_stale_signature(folder, tell):
        yield


def _export(run: Path, folder: Path, wanted: list[str], options: dict[str, Any]) -> None:
    from edge_runtime.files import write_text
    from export.commands.printing import print_diagnosis, print_exports
    from export.exporter import Exporter, ExportSettings
    from trainer.evaluation.selective import HINT, Targets, asked_targets
    from trainer.quiet import import_tensorflow
    from trainer.run import Run, checked_name, checked_version, dump_json

    opened = Run.open(run)
    forms = _forms(opened.settings, wanted, options)
    if options["web"] or options["web_single_file"]:
        from export.web.site import check_preprocess

        check_preprocess(opened.preprocess)
    if options["quantizer"] == AI_EDGE:
        from export.tflite.ai_edge import check_package

        check_package()  # before the seconds that TensorFlow takes
    if opened.needs_keras:
        import_tensorflow()
    settings = ExportSettings(
        out=folder,
        name=None if options["name"] is None else checked_name(options["name"]),
        version=checked_version(options["model_version"]),
        calibration_images=options["calibration_images"],
        seed=options["seed"],
        license=options["licence"],
        targets=asked_targets(options, Targets.from_settings(opened.settings)),
        calibration_folder=options["calibration"],
        quantizer=options["quantizer"],
        runtimes=runtimes_of(options["runtimes"]),
    )
    done: list[Exported] = []
    with redirect_stdout(io.StringIO()):  # the converters print there, and it is for the table
        exporter = Exporter(opened, settings)
        for form in forms:
            click.echo(f"{form.name}: {form.about}", err=True)
            done.append(exporter.export(_with_tolerance(form, options)))
            _beside(done[-1], options)
        if options["refit"] is not None:
            done.append(exporter.refit(options["refit"], partial(_with_tolerance, options=options)))
            _beside(done[-1], options)
        layers = _diagnose(exporter) if options["diagnose"] else None
    travels: list[Path] = []
    if done:
        write_text(folder / "export.json", dump_json([entry.to_json() for entry in done]))
        travels = _travels_with(exporter, opened, folder, done, options["sign"])
    lines = [f"{entry.format.name}: {line}" for entry in done for line in entry.not_answered]
    with to_the_reader():
        if done:
            print_exports(done, exporter.trained_bytes)
        if travels:
            names = " and ".join(path.name for path in travels)
            click.echo(f"Beside them, from their figures: {names}")
        if layers is not None:
            print_diagnosis(layers, folder)
        for line in (*lines, *[HINT] * bool(lines)):
            click.echo(line)
    failed = [entry for entry in done if not entry.gate.passed]
    for entry in failed:
        for words in entry.gate.failures:
            line = printable(f"btc-export: {entry.format.name} rejected: {words}")
            click.echo(line, err=True)
    models = [word for entry in done if entry.gate.passed for word in ("--model", entry.path)]
    if models:
        next_command(["btc-edge", "benchmark", *models])
    if failed:
        raise SystemExit(ExitCode.FAILED)


def _with_tolerance(form: Format, options: dict[str, Any]) -> Format:
    """The format with what the user will bear instead of its own tolerance."""
    names = {
        "agreement": "min_agreement",
        "accuracy_drop": "max_accuracy_drop",
        "class_drop": "max_class_drop",
        "probability": "max_probability",
    }
    given = {field: options[name] for field, name in names.items() if options[name] is not None}
    return replace(form, tolerance=replace(form.tolerance, **given))


def _beside(entry: Exported, options: dict[str, Any]) -> None:
    """What stands beside a file that passed: its signature, its pages, its graph as C."""
    if not entry.gate.passed:
        return
    if entry.format.name == "int8" and (options["web"] or options["web_single_file"]):
        _write_pages(entry.path, entry.path.parent, options)
    if options["sign"]:
        from export.signing import sign_file

        sign_file(entry.path, options["sign"])
    if options["c_array"] and entry.format.name == "int8":
        from edge_runtime.files import write_text
        from edge_runtime.model.load import read_model
        from export.tflite.arena import estimate_arena
        from export.tflite.c_array import c_files

        arena = estimate_arena(read_model(entry.path).graph).total
        sources = c_files(entry.path.read_bytes(), entry.path.stem, arena)
        for name, text in sources.items():
            write_text(entry.path.with_name(name), text)


def _travels_with(
    exporter: Exporter, run: Run, folder: Path, done: list[Exported], key: Path | None
) -> list[Path]:
    """Write what goes where the files go: their card and their bill of materials."""
    from export.bom import ml_bom, write_bom
    from export.card import model_card, write_card

    files = [entry.to_json() for entry in done if entry.gate.passed]
    if not files:
        return []
    card = write_card(folder, model_card(run, files, *exporter.identity))
    if card is None:
        click.echo(
            "btc-export: README.md there is none of btc-export: it stays, and no model card is "
            "written",
            err=True,
        )
    written = [path for path in (card, write_bom(folder, ml_bom(run, files, *exporter.identity)))
               if path is not None]  # fmt: skip
    if key:
        from export.signing import sign_file

        for path in written:
            sign_file(path, key)
    return written


def _diagnose(exporter: Exporter) -> Any:
    click.echo("diagnosis: what each layer loses as int8", err=True)
    return exporter.diagnose()


def main() -> None:
    """Entry point of btc-export."""
    run_command(command, "btc-export", extra="export")
