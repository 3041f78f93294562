"""What a file is whose name says another thing, told in words before its bytes are called broken."""

from __future__ import annotations

from pathlib import Path

from tinsmith.types.errors import invalid

# First bytes, and what to do. UTF-16 is what spreadsheets save as "Unicode text".
_BEGINNINGS = {
    b"\x1f\x8b": "an unpacked file; this one is packed with gzip (gunzip unpacks it)",
    b"PK\x03\x04": "an unpacked file; this one is a zip archive or a spreadsheet (unzip it, or save it as CSV)",
    b"\x28\xb5\x2f\xfd": "an unpacked file; this one is packed with zstd (unzstd unpacks it)",
    b"\xfd7zXZ": "an unpacked file; this one is packed with xz (unxz unpacks it)",
    b"BZh": "an unpacked file; this one is packed with bzip2 (bunzip2 unpacks it)",
    b"PAR1": "text; this is a Parquet file (call it .parquet)",
    b"ARROW1": "text; this is an Arrow file (save it as Parquet)",
    b"\xff\xfe": "UTF-8; this is UTF-16 (iconv -f UTF-16 -t UTF-8 changes it)",
    b"\xfe\xff": "UTF-8; this is UTF-16 (iconv -f UTF-16 -t UTF-8 changes it)",
}


def check_is_text(path: Path, field: str = "data") -> None:
    """Refuse a file that is packed, or of another kind.

    Args:
        path: of the file.
        field: the setting that names it.

    Raises:
        UserError: it is; says what to do.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(8)
    for beginning, expected in _BEGINNINGS.items():
        if head.startswith(beginning):
            raise invalid(field, str(path), expected)
