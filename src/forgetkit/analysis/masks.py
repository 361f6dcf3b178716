"""The masks of a run as a file for other programs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from forgetkit import forgetting
from forgetkit.errors import DoesNotApplyError, OptionError
from forgetkit.record import RunDirectory
from forgetkit.record.files import write_atomically


def export(folder: Path, file: Path) -> int:
    """Write ``N/PARAMETER``, a bool array of the parameter's shape for each mega-batch ``N``; how many there are.

    True: the entry got a fresh value after that mega-batch. ``numpy.load(file)`` reads it. ``DoesNotApplyError`` where
    the run has none.
    """
    if file.suffix != ".npz":
        raise OptionError(f"--export-masks {file}: the name of an .npz file is wanted")
    directory = RunDirectory(folder)
    arrays = {
        f"{mega_batch}/{name}": mask.numpy()
        for mega_batch in directory.masks
        for name, mask in forgetting.restored(directory.masks_of(mega_batch)).items()
    }
    if not arrays:
        raise DoesNotApplyError(f"{folder} has no masks: it is no run, forgot nothing, or had --keep-masks none")
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_atomically(file, content.getbuffer())
    return len(arrays)
