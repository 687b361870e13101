"""The page that runs a model in a browser: as a folder that any server of files serves, or as one
file that is opened from a disk.

Nothing is fetched when a page is made: what it runs on is in the distribution btc-edge-web. Its
words and its look are those of the page of `btc-edge serve`, whose files are taken.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np

import edge_runtime
from edge_runtime.errors import ModelError, UsageError
from edge_runtime.files import write_bytes
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.backends import Graph, open_graph
from edge_runtime.model.file_format import ModelFile, pack_model, parse_model
from export.tflite.float_outputs import with_float_outputs
from export.web.inline import inlined

MAIN = "app.js"
OF_SERVE = ("cards.js", "exchange.js", "zip.js", "style.css")  # from the page of `btc-edge serve`
TEMPLATES = ("waiting", "words", "picture")  # likewise, from its index.html
ASSETS = ("model.tflite", "web.json", "litert.wasm.gz", "jpeg-turbo.wasm.gz")
GLUE = "litert_glue.js"  # a plain script, which gives LiteRT's .wasm what it imports
SCHEME = "int8-full"  # integers are computed alike everywhere; floats are not
PROOFS = 16  # inputs on which both graphs must give the same bits
RESIZE = "pyramid"

# What LiteRT.js says, and what it says in the page: a module of the page's own loads its .wasm, and
# no GPU is opened, since the processor computes.
CHANGED = (
    (' from "@litertjs/wasm-utils";', ' from "./wasm-utils.js";'),
    ("await Environment.create()", "await Environment.create({ webGpuDevice: null })"),
)
_POLICY = (
    "default-src 'none'; script-src {scripts} 'wasm-unsafe-eval'; style-src {styles}; "
    "img-src data:; connect-src {connect}; base-uri 'none'; form-action 'none'"
)


def check_preprocess(steps: Preprocess) -> None:
    """What a page can prepare slices for.

    Raises:
        UsageError: steps that it does not have.
    """
    if steps.resize != RESIZE or steps.denoise is not None or steps.contrast is not None:
        raise UsageError(
            "a page prepares slices with --resize pyramid and without --denoise and --contrast; "
            "this model was trained otherwise"
        )


def web_model(file: ModelFile) -> bytes:
    """The model file of a page: the same metadata, and a graph whose outputs are floats.

    Both graphs are run, and must give the same bits.

    Raises:
        UsageError: a file that the page cannot answer by.
        ModelError: the new graph answers otherwise.
    """
    info = file.info
    if file.format != "tflite" or info.quantization["scheme"] != SCHEME:
        raise UsageError("a page is made of the .tflite file of --int8, and of no other")
    check_preprocess(info.preprocess)
    data = pack_model(with_float_outputs(file.graph), info, "tflite")
    made = parse_model(data)
    old, new = (open_graph(one, "litert") for one in (file, made))
    rng = np.random.default_rng(0)
    for top in np.linspace(1, 256, PROOFS).astype(int):
        pixels = rng.integers(0, top, (info.preprocess.size, info.preprocess.size), np.uint8)
        if not _same(old, new, pixels):
            raise ModelError("with floats for outputs the graph answers otherwise: no page of it")
    return data


def _same(old: Graph, new: Graph, pixels: np.ndarray) -> bool:
    given = []
    for graph in (old, new):
        outputs = [graph.run(pixels), graph.features(), graph.class_maps()]
        given.append([b"" if one is None else one.tobytes() for one in outputs])
    return given[0] == given[1]


def litert_version() -> str:
    """The version of LiteRT.js that pages are written with.

    Raises:
        UsageError: no btc-edge-web.
    """
    version: str = json.loads(_vendored("versions.json"))["@litertjs/core"]
    return version


def write_site(folder: Path, file: ModelFile) -> list[Path]:
    """Write the page as a folder: `index.html` and what it loads.

    Args:
        folder: made where it is missing; files of the same names are replaced.
        file: of `btc-export --int8`.

    Returns:
        What was written.

    Raises:
        UsageError: a file that the page cannot answer by, or no btc-edge-web.
        ModelError: see `web_model`.
    """
    modules, assets = _modules(), _assets(file)
    policy = _POLICY.format(scripts="'self'", styles="'self'", connect="'self'")
    page = _page(
        policy,
        '<link rel="stylesheet" href="style.css">\n'
        f'  <script src="{GLUE}" defer></script>\n'
        f'  <script type="module" src="{MAIN}"></script>',
        "",
        file,
    )
    texts = {**modules, GLUE: _vendored(GLUE).decode("utf-8"), "style.css": _style()}
    contents = {name: text.encode("utf-8") for name, text in texts.items()} | assets
    contents["index.html"] = page.encode("utf-8")  # last: the folder is whole
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return [folder / name for name in contents]


def write_single(path: Path, file: ModelFile) -> None:
    """Write the page as one file.

    Raises:
        UsageError, ModelError: see `write_site`.
    """
    glue, style = _vendored(GLUE).decode("utf-8"), _style()
    scripts = [_in_html(glue), _in_html(inlined(_modules(), MAIN))]
    blocks = "\n".join(
        f'<script type="text/plain" id="asset-{name}">{base64.b64encode(data).decode()}</script>'
        for name, data in _assets(file).items()
    )
    policy = _POLICY.format(
        scripts=" ".join(map(_hash, scripts)), styles=_hash(style), connect="'none'"
    )
    body = blocks + "".join(f"\n<script>{script}</script>" for script in scripts)
    page = _page(policy, f"<style>{style}</style>", body, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page.encode("utf-8"))


def _page(policy: str, head: str, body: str, file: ModelFile) -> str:
    parts = {
        "policy": policy, "head": head, "body": body, "templates": _templates(),
        "licence": html.escape(_licence(file.info.license, file.info.data.get("citation"))),
        "licences": html.escape(_vendored("licences.txt").decode("utf-8")),
    }  # fmt: skip
    text = _own("index.html")
    return re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], text)


def _assets(file: ModelFile) -> dict[str, bytes]:
    model = web_model(file)
    about = {
        "version": edge_runtime.__version__,
        "litert_js": litert_version(),
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "made_from": {"model": file.tag, "sha256": file.sha256},
    }
    made = {"model.tflite": model, "web.json": (json.dumps(about, indent=1) + "\n").encode("utf-8")}
    return {name: made[name] if name in made else _vendored(name) for name in ASSETS}


def _modules() -> dict[str, str]:
    """The page's modules by name: its own, of `btc-edge serve`, and LiteRT.js."""
    own = (entry.name for entry in files("export.web").joinpath("page").iterdir())
    modules = {name: _own(name) for name in sorted(own) if name.endswith(".js")}
    modules |= {name: _of_serve(name) for name in OF_SERVE if name.endswith(".js")}
    text = _vendored("litert.js").decode("utf-8")
    for old, new in CHANGED:
        if text.count(old) != 1:
            raise UsageError("this btc-edge-web is of another version: pip install ./web again")
        text = text.replace(old, new)
    modules["litert.js"] = re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.M)
    return modules


def _style() -> str:
    return _of_serve("style.css") + _own("page.css")


def _templates() -> str:
    text = _of_serve("index.html")
    found = [
        re.search(rf'<template id="{name}-template">.*?</template>', text, re.S)
        for name in TEMPLATES
    ]
    return "\n\n  ".join(match[0] for match in found if match is not None)


def _own(name: str) -> str:
    return files("export.web").joinpath("page", name).read_text("utf-8")


def _of_serve(name: str) -> str:
    return files("edge_runtime.services").joinpath("page", name).read_text("utf-8")


def _vendored(name: str) -> bytes:
    try:
        from btc_edge_web import FOLDER
    except ModuleNotFoundError:
        raise UsageError(
            "a page needs the package btc-edge-web, which is built with npm: "
            "pip install ./web in a checkout of btc-edge"
        ) from None
    try:
        content: bytes = Path(FOLDER, name).read_bytes()
    except OSError:
        raise UsageError(f"btc-edge-web lacks {name}: pip install ./web again") from None
    return content


def _licence(licence: str | None, citation: object) -> str:
    """What the page says of the model's licence."""
    words = f"Licence of the model: {licence or 'not stated'}"
    return f"{words}; learned from: {citation}." if citation else f"{words}."


def _in_html(script: str) -> str:
    """A script as it may stand in a page: nothing in it ends the element."""
    return re.sub(r"<(/script|!--)", r"<\\\1", script, flags=re.I)


def _hash(text: str) -> str:
    """As a Content-Security-Policy names what stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"
