"""Bytes and text of a file, with what is wrong with them said by position."""

import gzip
import zlib
from pathlib import Path

from trainwright.core.errors import Fault, InputError

BOM = b"\xef\xbb\xbf"


def read_bytes(path: Path, file: str) -> bytes:
    """The bytes of a file, unpacked where its name ends in .gz. Raises InputError for a cut or broken gzip."""
    raw = path.read_bytes()
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError:
        raise InputError(Fault(file, "the gzip file is cut off", "Fetch the file again, whole.")) from None
    except (gzip.BadGzipFile, zlib.error):
        raise InputError(Fault(file, "not a whole gzip file", "Fetch it again, or mend its name.")) from None


def read_text(path: Path, file: str) -> str:
    """The text of a UTF-8 file, a byte order mark left off. Raises InputError with the position of a wrong byte."""
    raw = read_bytes(path, file)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(Fault(file, "not UTF-8: it begins as UTF-16 does (byte 0)", "Save the file as UTF-8."))
    skipped = len(BOM) if raw.startswith(BOM) else 0
    try:
        return str(memoryview(raw)[skipped:], encoding="utf-8")
    except UnicodeDecodeError as error:
        at = error.start + skipped
        line = raw.count(b"\n", 0, at) + 1
        reason = f"not UTF-8 at byte {at} (0x{raw[at]:02x})"
        raise InputError(Fault(file, reason, "Save the file as UTF-8.", row=f"line {line}")) from None
