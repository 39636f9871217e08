"""A full disk, by whatever part of the house it was met, in words."""

import errno
import os
import sqlite3

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # to whoever meets them, a quota or a limit of size is a full disk


def words(error: Exception) -> str:
    """A full disk in words, if it is that which has raised `error`; else empty."""
    remedy = "Make room: `trainwright clean`, then `trainwright clean --versions`."
    if isinstance(error, OSError) and error.errno in FULL:
        return f"No space left on device{f': {error.filename}' if error.filename else ''}. {remedy}"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it says in what part of SQLite
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        says = "No space left on device" if code == sqlite3.SQLITE_FULL else f"{error}, as a full disk makes it"
        return f"{says}: DVC's own records, in {os.environ.get('DVC_SITE_CACHE_DIR', 'its folder')}. {remedy}"
    return ""
