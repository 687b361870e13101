"""Which code this is: what is installed beside it, or on another machine, may be another."""

from functools import lru_cache

__version__ = "0.2.0.dev0"


@lru_cache(maxsize=8)
def code_digest(package: str) -> str:
    """A digest of a package's Python files, in hexadecimal digits; empty where there is none.

    Two checkouts with one version number may answer differently; where a package stands, and what
    else it brings, does not matter.
    """
    import hashlib  # every start of a command imports this module for its version
    from contextlib import suppress
    from importlib.util import find_spec
    from pathlib import Path

    with suppress(ImportError, ValueError, AttributeError):
        spec = find_spec(package)
        digest = hashlib.sha256()
        for place in (spec and spec.submodule_search_locations) or ():
            files = sorted(Path(place).rglob("*.py"), key=lambda file: file.as_posix())
            for file in files:
                name = file.relative_to(place).as_posix()
                digest.update(f"{name}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
        return digest.hexdigest()
    return ""
