"""Where the network looked: its class maps over the slice, without gradients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.files import write_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    CropBox = tuple[float, float, float, float]

WHOLE: CropBox = (0.0, 0.0, 1.0, 1.0)
HUGE = 1e30
LONGEST = 2048  # pixels of an overlay's longer side; the maps have some dozen cells


class Explained(NamedTuple):
    """A slice that was answered, and where the network looked.

    Attributes:
        name: its file, as the answer calls it.
        number: which slice of that file, from 0; None where the file holds one.
        digest: sha256 of the file.
        gray: the slice, uint8 H×W.
        heat: the class map of the best guess, float32 h×w; None where the model has none.
        crop_box: where that lies in the slice, see `preprocess.crop_box`.
    """

    name: str
    number: int | None
    digest: str
    gray: Gray
    heat: npt.NDArray[np.float32] | None
    crop_box: CropBox


def overlay(
    gray: Gray, heat: npt.NDArray[np.floating[Any]], crop_box: CropBox = WHOLE
) -> npt.NDArray[np.uint8]:
    """A slice with a coarse heatmap in colour (inferno: bright where most speaks for the class).

    A slice whose longer side has more than LONGEST pixels is shrunk to that: the overlay takes some
    twenty times the bytes of the slice that it is made from.

    Args:
        gray: the slice, H×W.
        heat: the map, h×w, of finite numbers.
        crop_box: where the map lies in the slice, see `preprocess.crop_box`; outside it the slice
            stays gray.

    Returns:
        uint8 H×W×3 in BGR order, as OpenCV writes it; of a huge slice smaller, in its proportions.
    """
    import cv2

    if max(gray.shape) > LONGEST:
        height, width = (max(1, round(n * LONGEST / max(gray.shape))) for n in gray.shape)
        gray = np.asarray(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    (height, width), (tall, wide) = gray.shape, heat.shape
    left, top, right, bottom = crop_box
    # From the centre of a pixel to the coordinates of the map, whose cells have centres too.
    x, y = wide / (width * (right - left)), tall / (height * (bottom - top))
    shift = (x / 2 - left * width * x - 0.5, y / 2 - top * height * y - 0.5)
    most = float(np.abs(heat).max())
    if most > HUGE:  # differences would overflow; only their proportions show
        heat = heat / most
    fine = cv2.warpAffine(
        heat.astype(np.float32),
        np.array([[x, 0, shift[0]], [0, y, shift[1]]]),
        (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    spread = float(fine.max() - fine.min())
    level = (fine - fine.min()) / spread if spread > 0 else np.zeros_like(fine)
    colour = cv2.applyColorMap(np.rint(level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    blended: npt.NDArray[np.uint8] = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
    rows = slice(max(round(top * height), 0), max(round(bottom * height), 0))
    columns = slice(max(round(left * width), 0), max(round(right * width), 0))
    inside = blended[rows, columns]
    inside[:] = cv2.addWeighted(inside, 0.6, colour[rows, columns], 0.4, 0)
    return blended


def write_overlay(folder: Path, part: Explained) -> str:
    """Write an overlay as PNG; its name tells the input's, the slice and the start of the digest.

    Returns:
        The path.

    Raises:
        ModelError: a slice without a map.
    """
    import cv2

    if part.heat is None:
        raise ModelError("this model gives no class maps, so it has no heatmaps")
    picture = overlay(part.gray, part.heat, part.crop_box)
    stem = Path(part.name).name.partition(".")[0][:100] or "slice"
    middle = "" if part.number is None else f"-{part.number:04d}"
    path = folder / f"{stem}{middle}-{part.digest[:8]}.png"
    write_bytes(path, cv2.imencode(".png", picture)[1].tobytes())
    return str(path)
