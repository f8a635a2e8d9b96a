"""Arrays in scratch files that are mapped into memory, with their place on the disk taken first.

In: a path and a shape. Out: an array of zeros. Without taking the place first, a disk that fills
would kill the process at some later assignment, without a word.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hornbook.files import disk_errors


def mapped_zeros(path: Path, kind: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A new array in the file `path`, which is written over.

    Raises:
        HornbookError: there is no room for it.
    """
    count = math.prod(shape) * np.dtype(kind).itemsize
    if not count:  # nothing cannot be mapped
        path.write_bytes(b"")
        return np.zeros(shape, kind)
    with disk_errors(path), open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, count)
        else:
            file.truncate(count)
    return np.asarray(np.memmap(path, kind, "r+", shape=shape))
