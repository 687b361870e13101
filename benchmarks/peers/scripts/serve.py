"""Runs one of the scripts beside this file, in the environment of its own library:

    python serve.py SCRIPT MODEL SIZE LABEL,LABEL,... PICTURE   classifies one file and ends
    python serve.py SCRIPT MODEL SIZE LABEL,LABEL,...           answers requests from stdin

A request and its answer are a line of JSON each: `{"read": [path, ...]}` takes files into memory;
`{"classify": i}` classifies the i-th of them and tells how long that took; `{"folder": [path, ...],
"workers": n}` reads and classifies files with n threads. Nothing but the standard library, and what
the script itself needs.

A script has `load(model, size, labels)`, which opens the model for one thread and returns what
classifies the bytes of a picture; and `load_folder(model, size, labels, workers)` where its library
has a way of its own for many files.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Classify = Callable[[bytes], dict[str, float]]
Folder = Callable[[list[str]], int]


def read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def with_threads(load: Callable[[], Classify], workers: int) -> Folder:
    """Many files with a thread and a model for each worker."""
    own = threading.local()

    def open_own() -> None:
        own.classify = load()

    def one(path: str) -> dict[str, float]:
        answer: dict[str, float] = own.classify(read(path))
        return answer

    pool = ThreadPoolExecutor(workers, initializer=open_own)
    return lambda paths: sum(1 for _ in pool.map(one, paths))


def serve(script: Any, model: str, size: int, labels: list[str]) -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def load() -> Classify:
        classify: Classify = script.load(model, size, labels)
        return classify

    classify, folder = load(), None
    pictures: list[bytes] = []
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if "read" in request:
            pictures = [read(path) for path in request["read"]]
        elif "classify" in request:
            data = pictures[request["classify"]]
            begun = time.perf_counter()
            probabilities = classify(data)
            answer = {"ms": (time.perf_counter() - begun) * 1e3, "probabilities": probabilities}
        else:
            if folder is None:
                workers = request["workers"]
                if hasattr(script, "load_folder"):
                    folder = script.load_folder(model, size, labels, workers)
                else:
                    folder = with_threads(load, workers)
            begun = time.perf_counter()
            done = folder(request["folder"])
            answer = {"seconds": time.perf_counter() - begun, "done": done}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    name, model, size, labels, *pictures = sys.argv[1:]
    script = importlib.import_module(name)
    if not pictures:
        serve(script, model, int(size), labels.split(","))
    for picture in pictures:
        print(json.dumps(script.load(model, int(size), labels.split(","))(read(picture))))


if __name__ == "__main__":
    main()
