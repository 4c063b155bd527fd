# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Files that are read though somebody else may have put something else in their place."""

from __future__ import annotations

import errno
import os
import stat

FILE_MAX = 256 * 1024 ** 2  # bytes; the page of 10,000 guests has about fifty million


def regular_file(path: str) -> bytes:
    """What a regular file holds; OSError for anything else, which is neither waited for nor read without end."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as handle:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        data = handle.read(FILE_MAX + 1)
    if len(data) > FILE_MAX:
        raise OSError(errno.EFBIG, "it is larger than {0} bytes".format(FILE_MAX))
    return data
