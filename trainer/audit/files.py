"""What an audit keeps of each file: about 2 KB of facts, never the decoded picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.imaging.headers import Header
from edge_runtime.quiet import quiet_c_stderr
from trainer.data.collection import Data, collections_of, read_collections
from trainer.data.file_statistics import FILE_STATISTICS
from trainer.data.layout import PassedOver
from trainer.data.near_duplicates import THUMBNAIL_SIZE
from trainer.data.owners import Owner
from trainer.data.reading import Picture, Progress

TINY = 64  # pixels of the shorter side
LONG = 1.2  # longer side over shorter side
COLOURED = 24  # gray levels between a pixel's highest and lowest component
COLOUR_SHARE = 0.01  # of the pixels: a coloured bar or mark
COLOURFUL_SHARE = 0.2  # of the pixels: no MRI with a mark any more
BORDER = 2  # thumbnail pixels
DARK = 0.3  # of the picture's 95th percentile
DARK_SHARE = 0.2  # of the border
BLANK = 5.0  # deviation of the thumbnail, gray levels
NOISE = 0.3  # correlation of neighbouring thumbnail pixels

# The reasons to doubt that a file is an MRI slice. On the 7,019 slices of the Brain Tumor MRI
# Dataset one fires: a slice on a white page.
NOT_MRI = {
    "no dark background": f"less than {100 * DARK_SHARE:.0f} % of the border is darker than "
    f"{100 * DARK:.0f} % of the picture's bright parts",
    "blank": f"gray levels deviate by less than {BLANK:g}",
    "noise": f"neighbouring areas correlate below {NOISE:g}",
    "colourful": f"more than {100 * COLOURFUL_SHARE:.0f} % of the pixels are coloured",
}
ODDITIES = {
    "tiny": f"shorter side below {TINY} pixels",
    "not_square": f"longer side over {LONG:g} times the shorter",
    "colour": f"more than {100 * COLOUR_SHARE:.0f} % of the pixels are coloured, such as a mark",
    "sixteen_bit": "more than 8 bits a component: gray levels are scaled to 0-255",
    **NOT_MRI,
}


@dataclass(frozen=True)
class Files:
    """The readable images of a data set, one entry each: pictures, and the slices of volumes.

    Attributes:
        paths: names within the data set, see `slice_name`.
        labels: class, see `layout.class_and_split`.
        splits: `training`, `testing` or empty.
        formats, modes: of the file, such as `jpeg` and `gray`.
        sizes: int32 array of N×2, width and height.
        digests: 16 bytes of the SHA-256 of each file, see `Picture`.
        pixels: digest of each decoded gray picture.
        thumbnails: uint8 array of N×32×32, see `near_duplicates`.
        file_statistics: float32 array of N×10, see `file_statistics`.
        odd: bool array of N×8, in the order of ODDITIES.
        problems: (path, reason) of the files that cannot be used.
        passed_over: files that are no pictures to learn from, see `arrange`.
        notes: sentences on volumes, see `reading.Reading`.
        owners: whose each image is, in this process only; may be empty.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    formats: tuple[str, ...]
    modes: tuple[str, ...]
    sizes: npt.NDArray[np.int32]
    digests: tuple[bytes, ...]
    pixels: tuple[str, ...]
    thumbnails: npt.NDArray[np.uint8]
    file_statistics: npt.NDArray[np.float32]
    odd: npt.NDArray[np.bool_]
    problems: tuple[tuple[str, str], ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()
    owners: tuple[Owner, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def tested(self) -> npt.NDArray[np.bool_]:
        """Which images stand in Testing. `btc-train` may learn from all others."""
        return np.array([split == "testing" for split in self.splits], dtype=bool)


class _Facts(NamedTuple):
    """What is kept of a `Picture`."""

    path: str
    label: str
    split: str
    format: str
    mode: str
    size: tuple[int, int]
    digest: bytes
    pixels: str
    thumbnail: npt.NDArray[np.uint8]
    file_statistics: npt.NDArray[np.float32]
    odd: tuple[bool, ...]
    owner: Owner


def read_files(data: Data, progress: Progress | None = None) -> Files:
    """Read and decode each image once and keep its facts.

    A file that cannot be read, or lies in no class folder, becomes a problem.

    Args:
        data: zip or folder, or collections.
        progress: called with (done, total).

    Raises:
        DataError: no readable image, or a hostile archive.
    """
    read, passed_over = read_collections(collections_of(data), _facts, progress)
    facts, n = read.kept, len(read.kept)
    return Files(
        paths=tuple(f.path for f in facts),
        labels=tuple(f.label for f in facts),
        splits=tuple(f.split for f in facts),
        formats=tuple(f.format for f in facts),
        modes=tuple(f.mode for f in facts),
        sizes=np.array([f.size for f in facts], np.int32).reshape(n, 2),
        digests=tuple(f.digest for f in facts),
        pixels=tuple(f.pixels for f in facts),
        thumbnails=np.array([f.thumbnail for f in facts], np.uint8).reshape(
            n, THUMBNAIL_SIZE, THUMBNAIL_SIZE
        ),
        file_statistics=np.array([f.file_statistics for f in facts], np.float32).reshape(
            n, len(FILE_STATISTICS)
        ),
        odd=np.array([f.odd for f in facts], bool).reshape(n, len(ODDITIES)),
        problems=tuple((_writable(path), reason) for path, reason in read.problems),
        passed_over=passed_over,
        notes=tuple(read.notes),
        owners=tuple(f.owner for f in facts),
    )


def _facts(picture: Picture) -> _Facts:
    header, gray = picture.header, picture.gray
    coloured = coloured_share(picture.encoded, header)
    return _Facts(
        picture.path,
        picture.label,
        picture.split,
        header.format,
        mode_of(header),
        (gray.shape[1], gray.shape[0]),
        picture.sha256[:16],
        picture.pixels,
        picture.thumbnail,
        picture.file_statistics,
        _odd(header, gray.shape, picture.thumbnail, coloured),
        picture.owner,
    )


def _writable(path: str) -> str:
    """A name as UTF-8 can hold it."""
    return path.encode("utf-8", "backslashreplace").decode()


def mode_of(header: Header) -> str:
    """How the pixels are stored, such as `gray`, `RGB` or `gray 16-bit`."""
    name = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGBA"}.get(header.channels, "unknown")
    if header.format == "jpeg" and header.channels == 4:
        name = "CMYK"
    return name if header.bits in (0, 8) else f"{name} {header.bits}-bit"


def coloured_share(data: bytes, header: Header) -> float:
    """Share of pixels that are visibly coloured; many gray pictures are stored as RGB.

    Decoded at a quarter of the size, where that leaves enough pixels: four times as fast.
    """
    import cv2

    if header.channels < 3:
        return 0.0
    large = min(header.width, header.height) >= 2 * TINY
    flag = cv2.IMREAD_REDUCED_COLOR_4 if large else cv2.IMREAD_COLOR
    try:
        with quiet_c_stderr:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        pixels = None
    if pixels is None:
        return 0.0
    apart = cv2.subtract(pixels.max(axis=2), pixels.min(axis=2))
    return float((apart > COLOURED).mean())


def doubts(small: npt.NDArray[np.uint8], coloured: float) -> tuple[bool, ...]:
    """Which reasons of NOT_MRI hold for a thumbnail (32×32) and its share of coloured pixels."""
    levels = small.astype(np.float32)
    if levels.std() < BLANK:
        return False, True, False, coloured > COLOURFUL_SHARE
    border = np.ones(levels.shape, bool)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    dark = (levels[border] < DARK * np.percentile(levels, 95)).mean()
    centred = levels - levels.mean()
    across, down = centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1]
    smooth = (across.mean() + down.mean()) / 2 / levels.var()
    return bool(dark < DARK_SHARE), False, bool(smooth < NOISE), coloured > COLOURFUL_SHARE


def _odd(
    header: Header, shape: tuple[int, ...], small: npt.NDArray[np.uint8], coloured: float
) -> tuple[bool, ...]:
    shorter, longer = sorted(shape)
    return (
        shorter < TINY,
        longer > LONG * shorter,
        coloured > COLOUR_SHARE,
        header.bits > 8,
        *doubts(small, coloured),
    )
