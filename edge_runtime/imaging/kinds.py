"""Names of well-known formats that are not read, told by their first bytes."""

from __future__ import annotations

# What a file begins with, and what it is called.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
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


def foreign_format(data: bytes) -> str | None:
    """What a file in a known format that is not read is called, with its article; else None."""
    for signature, name in _SIGNATURES:
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
