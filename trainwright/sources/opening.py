"""Bytes and text of a file, with what is wrong with them said by position.

What a file is, its first bytes say, not its name: a gzip or zip file is unpacked whatever it is called, and any other
form that is no text is named.
"""

import gzip
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from trainwright.core.errors import Fault, InputError

BOM = b"\xef\xbb\xbf"
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
PACKED: Mapping[bytes, str] = {
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip file",
    b"Rar!": "a RAR file",
}
BINARY: Mapping[bytes, str] = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"%PDF": "a PDF file",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
GB = 10**9
# zipfile raises all of these for archives that are damaged or packed in a way that it doesn't know.
DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError,
    OverflowError,
)  # fmt: skip
CHUNK = 1 << 20


def read_bytes(path: Path, file: str, most_gb: float) -> bytes:
    """The bytes of a file, unpacked if it is a gzip file or a zip file with one member.

    Raises InputError for a cut or broken archive, for one that unpacks to more than `most_gb` GB, for a zip file with
    several members, and for an archive of another kind.
    """
    raw = path.read_bytes()
    if raw.startswith(ZIP):
        raw = _unzipped(raw, file, most_gb)
    elif raw.startswith(GZIP) or path.suffix.lower() == ".gz":
        raw = _gunzipped(raw, file, most_gb)
    if kind := _kind(raw, PACKED):
        raise InputError(Fault(file, f"it is {kind}", "Unpack it, or pack it with gzip."))
    return raw


def is_packed(path: Path) -> bool:
    """Whether the first bytes of a file are those of a gzip or zip file."""
    with path.open("rb") as file:
        return file.read(len(ZIP)).startswith((GZIP, ZIP))


def _at_most(packed: IO[bytes] | gzip.GzipFile, file: str, most_gb: float) -> bytes:
    """What an archive unpacks to. Raises InputError as soon as that is more than `most_gb` GB."""
    pieces, size = [], 0
    while piece := packed.read(CHUNK):
        pieces.append(piece)
        size += len(piece)
        require_size(size, file, most_gb)
    return b"".join(pieces)


def require_size(size: int, file: str, most_gb: float) -> None:
    """Raises InputError if a file unpacks to more bytes than `source.max_unpacked_gb` allows."""
    if size > most_gb * GB:
        reason = f"it unpacks to more than {most_gb:g} GB"
        remedy = "If it is meant to, raise `source.max_unpacked_gb`."
        raise InputError(Fault(file, reason, remedy, field="source.max_unpacked_gb"))


def _gunzipped(raw: bytes, file: str, most_gb: float) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
            return _at_most(packed, file, most_gb)
    except EOFError:
        raise InputError(Fault(file, "the gzip file is cut off", "Fetch the file again, whole.")) from None
    except (gzip.BadGzipFile, zlib.error):
        raise InputError(Fault(file, "not a whole gzip file", "Fetch it again, or mend its name.")) from None


def _unzipped(raw: bytes, file: str, most_gb: float) -> bytes:
    """The one member of a zip file; folders and hidden files, which macOS adds, are none."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if "[Content_Types].xml" in archive.namelist():
                reason = "it is an Office file (a workbook of Excel, say), not text"
                raise InputError(Fault(file, reason, "Save the sheet as CSV (UTF-8) and name that file."))
            members = [info for info in archive.infolist() if not info.is_dir() and not _hidden(info.filename)]
            if len(members) != 1:
                names = ", ".join(repr(info.filename) for info in members[:5]) + (", …" if len(members) > 5 else "")
                reason = f"the zip file holds {len(members)} files ({names})" if members else "the zip file is empty"
                raise InputError(Fault(file, reason, "Unpack it, and name the file or the folder to read."))
            with archive.open(members[0]) as member:
                return _at_most(member, file, most_gb)
    except NotImplementedError:
        raise InputError(
            Fault(file, "the zip file is packed in an unknown way", "Unpack it, or pack it with gzip.")
        ) from None
    except RuntimeError:  # zipfile's way to say that it wants a password
        raise InputError(Fault(file, "the zip file is encrypted", "Unpack it, and name what was in it.")) from None
    except DAMAGED_ZIP as error:
        reason = f"not a whole zip file ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        raise InputError(Fault(file, reason, "Fetch the file again, or unpack it.")) from None


def _hidden(member: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in member.split("/"))


def _kind(raw: bytes, kinds: Mapping[bytes, str]) -> str:
    """What the first bytes of a file say that it is, or nothing."""
    return next((kind for magic, kind in kinds.items() if raw.startswith(magic)), "")


def read_text(path: Path, file: str, most_gb: float) -> str:
    """The text of a UTF-8 file, a byte order mark left off. Raises InputError with the position of a wrong byte."""
    raw = read_bytes(path, file, most_gb)
    if kind := _kind(raw, BINARY):
        raise InputError(Fault(file, f"it is {kind}, not text", "Mend its name and `format`, or save it as text."))
    if raw.startswith(UTF_16):
        raise InputError(Fault(file, "not UTF-8: it begins as UTF-16 does (byte 0)", "Save the file as UTF-8."))
    if {*raw[:64:2]} == {0} or {*raw[1:64:2]} == {0}:
        raise InputError(Fault(file, "not UTF-8: every other byte is 0, as in UTF-16", "Save the file as UTF-8."))
    skipped = len(BOM) if raw.startswith(BOM) else 0
    try:
        return str(memoryview(raw)[skipped:], encoding="utf-8")
    except UnicodeDecodeError as error:
        at = error.start + skipped
        line = raw.count(b"\n", 0, at) + 1
        reason = f"not UTF-8 at byte {at} (0x{raw[at]:02x})"
        raise InputError(Fault(file, reason, "Save the file as UTF-8.", row=f"line {line}")) from None
