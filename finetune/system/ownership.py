"""Who can put something in the place of a file or folder: asked of what is loaded as code."""

import grp
import os
import pwd
import stat
from pathlib import Path


def is_safe(path: Path) -> bool:
    """Whether nobody but this user and the system can put something else in the place of ``path``.

    That goes for each folder on the way to it, and on the way to where a link among them leads.
    """
    for part in [*reversed(path.parents), path]:
        if part.is_symlink():
            owner = part.lstat().st_uid
            if owner not in (0, os.getuid()) or not is_safe(part.parent / part.readlink()):
                return False
        elif not is_own(part):
            return False
    return True


def is_own(path: Path, sticky: bool = True) -> bool:
    """Whether ``path`` is this user's or the system's own, no link, and not writable by others.

    ``sticky`` lets folders pass in which everybody may remove what is theirs alone, as in /tmp. A group that
    is called as its user is that user's alone, as on most systems.
    """
    about = path.lstat()
    others = stat.S_IWOTH if _is_private(about.st_gid) else stat.S_IWOTH | stat.S_IWGRP
    shared = bool(about.st_mode & others) and not (sticky and about.st_mode & stat.S_ISVTX)
    return about.st_uid in (0, os.getuid()) and not shared and not path.is_symlink()


def _is_private(group: int) -> bool:
    """Whether a group is its one user's own; root's counts as such."""
    try:
        entry = grp.getgrgid(group)
        return entry.gr_name == pwd.getpwuid(os.getuid()).pw_name and not entry.gr_mem
    except KeyError:  # of a container that knows no names
        return False
