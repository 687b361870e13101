"""ES modules as one script, for a page that is one file.

A page that is opened from a disk may load nothing, not even a module beside it. So each module
becomes a function that is called once, in the order in which they import each other, and gives what
it exports. This is no bundler: it knows the forms that the page's modules and LiteRT.js have, and
refuses others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.-]+)";$', re.M)
_DECLARED = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.M)
_LISTED = re.compile(r"^export \{([^}]*)\};$", re.M)
_LEFT = re.compile(r"^(?:import|export)\b.*$", re.M)


def inlined(modules: Mapping[str, str], main: str) -> str:
    """One script of `main` and all that it imports.

    Args:
        modules: file name -> text; they import each other as `./NAME`.

    Raises:
        ValueError: a form of import or export that is not known, or modules in a circle.
    """
    parts: dict[str, str] = {}
    _add(modules, main, parts, ())
    return '"use strict";\n' + "\n".join(parts.values())


def _add(
    modules: Mapping[str, str], name: str, parts: dict[str, str], above: tuple[str, ...]
) -> None:
    if name in above:
        raise ValueError(f"modules in a circle: {' '.join((*above, name))}")
    if name in parts:
        return
    text = modules[name]
    for match in IMPORT.finditer(text):
        _add(modules, match[2], parts, (*above, name))
    exported = [match[2] for match in _DECLARED.finditer(text)]
    exported += [item.strip() for match in _LISTED.finditer(text) for item in match[1].split(",")]
    text = IMPORT.sub(lambda match: f"const {{{match[1]}}} = {_variable(match[2])};", text)
    text = _LISTED.sub("", _DECLARED.sub(r"\1", text))
    left = _LEFT.search(text)
    if left is not None or any(" as " in item for item in exported):
        raise ValueError(f"{name}: an import or export of a form that is not known")
    names = ", ".join(item for item in exported if item)
    parts[name] = f"const {_variable(name)} = (() => {{\n{text}\nreturn {{{names}}};\n}})();\n"


def _variable(name: str) -> str:
    return "module_" + re.sub(r"\W", "_", PurePosixPath(name).stem)
