"""What a disk says when it takes no more."""

from __future__ import annotations

import errno


def is_full(error: OSError) -> bool:
    """Whether an error means that there is no room: on the disk, in a quota, or under a limit on files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
