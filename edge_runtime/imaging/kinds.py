"""What a file is, told by its first bytes: the kinds that are read, a row each, and well-known ones
that are not.

All that has to do with kinds asks this table: names of files on the command line and in data sets,
the messages, `readers.open_slices` and `decode`. A new kind is a row here and a module beside this
one: that of a picture reads the header, so that what costs too much is refused before OpenCV, or a
function of the module, decodes it; that of anything else reads the whole file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Set
from typing import NamedTuple

HEAD = 1024  # bytes that tell what a file is
GZIP = b"\x1f\x8b"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the latter holds nothing


class Kind(NamedTuple):
    """A kind of file that is read.

    Attributes:
        name: in lower case, as messages and `Header.format` have it.
        title: as prose writes it.
        suffixes: of names of such files, in lower case.
        fits: whether a file that begins with these bytes (HEAD of them, or all) is one.
        module: of `edge_runtime.imaging`; imported when such a file comes. Its function
            `read(data, limits, plane, volume)` gives a `stack.Stack`, see `decode.read`.
        extra: of btc-edge, with the packages that the module imports; empty where it needs none.
        halves: suffixes of the two files that one may be stored as, the header's first;
            `nifti_pair.read_pair` makes one of them.
        gzipped: a gzip file is taken for one: nothing but unpacking it can tell.
        header: of a picture, as `module.function` of `edge_runtime.imaging`: gives the
            `headers.Header` of its bytes, None where they are damaged.
        repair: of a picture that OpenCV would read wrongly: gives a `repairs.Repaired`.
        pixels: of a picture that OpenCV does not decode at all: gives its values.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    fits: Callable[[bytes], bool]
    module: str
    extra: str = ""
    halves: tuple[str, ...] = ()
    gzipped: bool = False
    header: str = ""
    repair: str = ""
    pixels: str = ""

    @property
    def is_picture(self) -> bool:
        """Whether `decode.decode` reads it: one slice, of gray levels as a rule."""
        return self.module == "decode"


def _begins(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(signatures)


_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes of each kind that Windows and OS/2 have


def _is_bmp(data: bytes) -> bool:
    """A table with the column BMI begins like one, too."""
    return data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def _is_nifti(data: bytes) -> bool:
    """NIfTI-1 and -2: behind the size of the header, a magic (that of a pair of files too)."""
    return data[344:348] in (b"n+1\0", b"ni1\0") or data[4:8] in (b"n+2\0", b"ni2\0")


def _is_dicom(data: bytes) -> bool:
    """DICOM PS3.10 (section 7.1): `DICM` behind a preamble of 128 bytes, which may be another
    format's header; see `_is_bare_dicom` for files without."""
    return data[128:132] == b"DICM" or (data[:2] in _BARE and _is_bare_dicom(data[:HEAD]))


# The first that fits is it.
KINDS = (
    Kind("dicom", "DICOM", (".dcm", ".dicom"), _is_dicom, "dicom", extra="dicom"),
    Kind("nifti", "NIfTI", (".nii", ".nii.gz"), _is_nifti, "nifti", extra="nifti",
         halves=(".hdr", ".img"), gzipped=True),
    Kind("jpeg", "JPEG", (".jpg", ".jpeg"), _begins(b"\xff\xd8\xff"), "decode",
         header="headers.jpeg_header"),
    Kind("png", "PNG", (".png",), _begins(b"\x89PNG\r\n\x1a\n"), "decode",
         header="headers.png_header", repair="repairs.plain_png"),
    Kind("bmp", "BMP", (".bmp",), _is_bmp, "decode",
         header="headers.bmp_header", repair="repairs.plain_bmp"),
    Kind("tiff", "TIFF", (".tif", ".tiff"),
         _begins(b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), "decode",
         header="tiff.tiff_header", pixels="tiff.read_tiff"),
    Kind("webp", "WebP", (".webp",), _is_webp, "decode",
         header="headers.webp_header", repair="repairs.turned_webp"),
    Kind("gif", "GIF", (".gif",), _begins(b"GIF87a", b"GIF89a"), "decode",
         header="headers.gif_header", repair="repairs.opaque_gif"),
)  # fmt: skip
_PICTURES = tuple(kind for kind in KINDS if kind.is_picture)
PICTURE_SUFFIXES = tuple(suffix for kind in _PICTURES for suffix in kind.suffixes)
SUFFIXES = tuple(suffix for kind in KINDS for suffix in (*kind.suffixes, *kind.halves))
VOLUME_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix not in PICTURE_SUFFIXES)
_HALVES = tuple(suffix for kind in KINDS for suffix in kind.halves)


def kinds_in_words() -> str:
    """What is read, for a help text."""
    pictures = [kind.title for kind in _PICTURES]
    words = [f"{', '.join(pictures[:-1])} and {pictures[-1]}"]
    for kind in KINDS:
        if not kind.is_picture:
            halves = [" with its ".join(kind.halves)] if kind.halves else []
            names = ", ".join([*kind.suffixes, *halves])
            package = f" with btc-edge[{kind.extra}]" if kind.extra else ""
            words.append(f"{kind.title} ({names}){package}")
    return "; ".join(words)


def kind_of(data: bytes) -> Kind | None:
    """What a file that begins with these bytes is; None for what is not read, and for gzip files,
    since their first bytes do not tell."""
    for kind in KINDS:
        if kind.fits(data):
            return kind
    return None


def picture_kind(data: bytes) -> Kind | None:
    """As `kind_of`, of pictures only."""
    for kind in _PICTURES:
        if kind.fits(data):
            return kind
    return None


def gzipped_kind(data: bytes) -> Kind | None:
    """What a gzip file is taken for; None where it is none."""
    return next((kind for kind in KINDS if kind.gzipped), None) if data[:2] == GZIP else None


def kind_named(name: str) -> Kind | None:
    """What a file should be by its name; None where that does not tell."""
    lower = name.lower()
    return next((kind for kind in KINDS if lower.endswith(kind.suffixes)), None)


def halves_of(name: str) -> tuple[str, ...]:
    """The two suffixes of files such as this one, that hold half of a volume by their names, the
    header's first; none for other names."""
    lower = name.lower()
    if not lower.endswith(_HALVES):  # nearly every name
        return ()
    return next(kind.halves for kind in KINDS if kind.halves and lower.endswith(kind.halves))


def other_halves(name: str) -> tuple[str, ...]:
    """What the other half of a pair may be called, the likeliest first: its suffix in capitals or
    not, as this one's is; none for names of no half."""
    halves = halves_of(name)
    if not halves:
        return ()
    own = next(suffix for suffix in halves if name.lower().endswith(suffix))
    other = halves[own == halves[0]]
    stem, capitals = name[: -len(own)], name[-len(own) :].isupper()
    return tuple(stem + suffix for suffix in sorted((other, other.upper()), reverse=not capitals))


def is_header_of_pair(name: str, names: Set[str]) -> bool:
    """Whether a file is the header of a pair whose other half is among the names of its folder: a
    pair is one input."""
    halves = halves_of(name)
    if not halves or not name.lower().endswith(halves[0]):
        return False
    # Of two headers that an image may have, as `nifti_pair.other_half` finds them, the first.
    return any(
        next(header for header in other_halves(image) if header in names) == name
        for image in other_halves(name)
        if image in names
    )


def refusal(data: bytes) -> str:
    """Why a file is no picture, or (where `kind_of` knows nothing) is not read at all."""
    kind = kind_of(data)
    if kind is not None:
        return f"not supported here: a {kind.title} file; btc-edge and Classifier read it"
    name = unsupported_format(data)
    if name is not None:
        return f"not supported: {name}"
    others = (kind for kind in KINDS if not kind.is_picture)
    names = ", ".join(kind.name for kind in (*_PICTURES, *others))
    return f"not an image in a supported format ({names})"


# The first group of a data set without preamble, as little-endian and big-endian files store it.
_BARE = (b"\x02\0", b"\x08\0", b"\0\x08")
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR",
                   b"UT", b"UV"))  # fmt: skip
_SHORT = frozenset((b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO",
                    b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL",
                    b"US"))  # fmt: skip
_CERTAIN = 3  # elements that must fit together


def _is_bare_dicom(start: bytes) -> bool:
    """Whether a data set (PS3.5, section 7.1) begins at once, as some programs write it.

    Nothing marks one, so its first elements must be whole and of rising tags, even groups and
    even lengths, each with a value representation that exists or none of them with one.
    """
    order = "<" if start[1] == 0 else ">"
    explicit = start[4:6] in _SHORT
    at = last = 0
    for _ in range(_CERTAIN):
        if at + 12 > len(start):
            return False
        group, element = struct.unpack_from(f"{order}HH", start, at)
        kind = start[at + 4 : at + 6]
        if not explicit or kind in _LONG:
            (length,) = struct.unpack_from(f"{order}I", start, at + (8 if explicit else 4))
            begin = at + (12 if explicit else 8)
        else:
            (length,) = struct.unpack_from(f"{order}H", start, at + 6)
            begin = at + 8
        known = group in (0x0002, 0x0008, 0x0010, 0x0018, 0x0020, 0x0028)
        rising = (group << 16 | element) > last
        if not (known and rising and length % 2 == 0 and begin + length <= len(start)):
            return False
        if (kind not in _SHORT | _LONG) if explicit else order == ">":
            return False
        last, at = group << 16 | element, begin + length
    return True


# What a file begins with, and what it is called.
_UNSUPPORTED: tuple[tuple[bytes, str], ...] = (
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"II\xbc\x01", "a JPEG XR picture"),
    (b"8BPS", "a Photoshop document"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (b"<svg", "an SVG drawing"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it first"),
    (b"BZh", "a bzip2 file: unpack it first"),
    (b"\xfd7zXZ\x00", "an xz file: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file: unpack it first"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"#?RGBE", "a Radiance HDR picture"),
    (b"\x59\xa6\x6a\x95", "a Sun raster picture"),
    (b"qoif", "a QOI picture"),
    (b"DDS ", "a DirectDraw texture"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x93NUMPY", "a NumPy array: give it to the Python interface"),
    (b"NRRD", "an NRRD volume"),
    (b"MINC", "a MINC volume"),
    (b"CDF\x01", "a NetCDF (MINC 1) file"),
    (b"ObjectType = Image", "a MetaImage volume"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"RIFF", "a RIFF file that is no WebP (sound or video)"),
    (b"\x1aE\xdf\xa3", "a Matroska video"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
)
_BRANDS = {b"avif": "an AVIF picture", b"avis": "an AVIF picture", b"heic": "a HEIC picture",
           b"heix": "a HEIC picture", b"hevc": "a HEIC picture", b"mif1": "a HEIF picture",
           b"msf1": "a HEIF picture"}  # fmt: skip
_ANYMAPS = tuple(b"P%d" % number for number in range(1, 8))


def unsupported_format(data: bytes) -> str | None:
    """What a file in a known format that is not read is called, with its article; else None."""
    for signature, name in _UNSUPPORTED:
        if data.startswith(signature):
            return name
    if data[4:8] == b"ftyp":  # ISO base media (ISO/IEC 14496-12): its brand tells
        return _BRANDS.get(data[8:12], "an MP4 or QuickTime video")
    if data[:2] in _ANYMAPS and data[2:3] and data[2:3] in b" \t\r\n#":
        return "a Netpbm picture"
    begin = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if begin.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if begin.startswith(b"<?xml") or begin.startswith(b"<!doctype svg"):
        return "an SVG drawing" if b"<svg" in begin else "an XML document"
    return None
