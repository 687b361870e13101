"""The HTML pages' templates, each beside the module that fills it, and the pictures within."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

QUALITY = 85  # of a JPEG, 0 to 100


def page_environment(folder: Path) -> Any:
    """A Jinja environment for the templates of a folder, which escapes every text and refuses a
    name that it does not know."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def inline_picture(picture: npt.NDArray[np.uint8]) -> str:
    """A picture (gray H×W, or BGR H×W×3) as the data URL of a JPEG."""
    import cv2

    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
