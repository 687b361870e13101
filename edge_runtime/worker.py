"""The other end of `processes`: a process that classifies the small files that it is told."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from contextlib import suppress
from pathlib import Path

from edge_runtime.child import READY, end_with_parent
from edge_runtime.processes import own_code


def child() -> None:
    """Answer one request after another until there is no more.

    On stdin come pickles, since the process that started this one is trusted: once, which code must
    be run, where to look for modules and the settings of a `Classifier`; then lists of file names,
    as bytes. On stdout go lines: `ready`, then for each list a JSON list of `Prediction.to_json` or
    null. They are not trusted on the other side.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent gets Ctrl-C too, and ends it
    with suppress(OSError):  # where memory runs out, it goes before its parent: nothing is lost
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for whatever else may write there
    code, where, settings = pickle.load(requests)
    if code != own_code():  # a file may get another answer from another version
        return
    sys.path[:0] = where
    import cv2

    from edge_runtime.classifier import Classifier

    cv2.setNumThreads(1)
    classifier = Classifier(**pickle.loads(settings))
    replies.write(READY)
    replies.flush()
    while True:
        try:
            files = pickle.load(requests)
        except EOFError:
            return
        answers = classifier.classify_small(list(map(os.fsdecode, files)))
        shapes = [None if answer is None else answer.to_json() for answer in answers]
        replies.write(json.dumps(shapes).encode("ascii") + b"\n")
        replies.flush()
