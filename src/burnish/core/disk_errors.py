"""Describe a full disk or a read-only folder in one sentence, from OSError or sqlite3.Error."""

import errno
import sqlite3

_FULL = "The disk is full"
_READ_ONLY = "The folder cannot be written"
_FAILING = "The disk cannot be read or written"
#: errno → what happened.
DISK_ERRORS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.EIO: _FAILING,
}
_SQLITE_ERRORS = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _READ_ONLY,
    sqlite3.SQLITE_IOERR: _FAILING,
}
_REMEDIES = {
    _FULL: "Free some space",
    _READ_ONLY: "Make it writable",
    _FAILING: "Check the disk",
}


def describe_disk_error(fault: BaseException) -> tuple[str, str] | None:
    """Return (what happened, what to do) for a storage error, None for any other. Contains no
    path."""
    what = None
    if isinstance(fault, OSError):
        what = DISK_ERRORS.get(fault.errno or 0)
    elif isinstance(fault, sqlite3.Error):
        # The upper bits hold the extended code.
        what = _SQLITE_ERRORS.get((getattr(fault, "sqlite_errorcode", 0) or 0) & 0xFF)
    return (what, _REMEDIES[what]) if what else None


def disk_error_remedy(what: str) -> str:
    """Return the remedy for one of the messages of `DISK_ERRORS`."""
    return _REMEDIES[what]
