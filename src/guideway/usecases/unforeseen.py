"""What a command says of an error that nobody has foreseen: a sentence, and where the details lie. No stack trace."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Final

from guideway.schemas.failures import FailureCode, Refusal

_ADVICE: Final = {
    errno.ENOSPC: "free some room, or name another place (what is ours is under GUIDEWAY_HOME)",
    errno.EDQUOT: "free some room, or name another place (what is ours is under GUIDEWAY_HOME)",
    errno.EROFS: "name a place that can be written to (what is ours is under GUIDEWAY_HOME)",
    errno.EMFILE: "let this process have more open files (`ulimit -n`)",
    errno.ENFILE: "let this machine have more open files (`fs.file-max`)",
    errno.EIO: "the device fails: look at the system's log",
}


EXIT_BUG: Final = 70
"""Apart from 1, so that whoever restarts us can tell a crash from a refusal (`EX_SOFTWARE` of sysexits.h)."""
EXIT_MACHINE: Final = 74
"""A full disk and the like: it may be over when we are started again (`EX_IOERR`)."""


def unforeseen(error: BaseException, home: Path) -> tuple[Refusal, int]:
    """What to say of an error that no room has made a refusal of, and the exit code; see `refusal_of` and `bug`."""
    refused = refusal_of(error) if isinstance(error, OSError) else None
    return (refused, EXIT_MACHINE) if refused is not None else (bug(error, home), EXIT_BUG)


def refusal_of(error: OSError) -> Refusal | None:
    """What to say where the machine does not give what is needed; None where that is not what has happened."""
    if error.filename is None and error.errno not in _ADVICE:
        return None
    # Of a file descriptor there is only a number.
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    advice = _ADVICE.get(error.errno or 0, "see that it is there and that we may use it")
    return Refusal(FailureCode.INVALID_SETTING, f"{where}{error.strerror or type(error).__name__}: {advice}")


def bug(error: BaseException, home: Path) -> Refusal:
    """A sentence that names the place in the code; the whole stack trace goes to a file under `home`."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "guideway" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere"
    # Without local variables: they hold prompts.
    details = "".join(traceback.format_exception(error))
    return Refusal(
        FailureCode.INTERNAL_ERROR,
        f"{type(error).__name__} at {place}, which nobody has foreseen: report it{_kept(details, place, home)}",
    )


def _kept(details: str, place: str, home: Path) -> str:
    # By its place: what fails again and again must not fill the disk.
    name = f"{place.replace(':', '-')}.txt"
    for folder in (home / "errors", Path(tempfile.gettempdir()) / f"guideway-errors-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / name).write_text(f"{' '.join(sys.argv[1:2])}\n{details}", encoding="utf-8", errors="replace")
        except OSError:
            continue
        return f" with {folder / name}"
    return ""
