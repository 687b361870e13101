"""What the bundled model is given of every picture in a folder, as digests; run on either side."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.load import read_model

options = read_model().info.preprocess
digests = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    gray = decode(path.read_bytes())
    given = [gray] + [
        preprocess(gray, replace(options, size=size, denoise=denoise))
        for size in (options.size, 128)
        for denoise in (None, "median")
    ]
    digests[path.name] = [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in given]
json.dump(digests, sys.stdout)
