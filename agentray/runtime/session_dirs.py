"""Where Ray puts the sessions of a home's clusters: their logs stay for a while, and no longer."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path
from zlib import crc32

from agentray.errors import StartFailed

SESSIONS_KEPT = 3


def ray_dir(home: Path) -> Path:
    """Return where Ray puts sessions and logs: a directory of this home's own.

    In the one that all clusters of a machine share, the last that was started names itself as the
    one that jobs and drivers find. Short, because there are sockets in it.
    """
    closed = Path(tempfile.gettempdir()) / f"agentray-ray-{crc32(os.fsencode(home)):08x}"
    try:
        closed.mkdir(mode=0o700)
    except FileExistsError:
        found = closed.lstat()
        # Anybody may make it in the temporary directory, and would then own our logs.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise StartFailed(f"{closed} belongs to another user: remove it.") from None
        closed.chmod(0o700)
    return closed / "ray"  # made by Ray, which opens it to everybody


def forget_old_sessions(directory: Path, kept: int = SESSIONS_KEPT) -> list[Path]:
    """Remove what clusters that are gone have left, but for the newest: people read their logs.

    Args:
        directory: of the sessions; no cluster runs in it.
        kept: how many sessions stay.

    Returns:
        What was removed.
    """
    # Their names begin with the time of their start.
    sessions = sorted(p for p in directory.glob("session_2*") if p.is_dir() and not p.is_symlink())
    old = sessions[: max(0, len(sessions) - kept)]
    for session in old:
        shutil.rmtree(session, ignore_errors=True)
    return old
