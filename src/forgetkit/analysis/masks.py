"""The masks of a run as a file for other programs."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from forgetkit import forgetting
from forgetkit.errors import DoesNotApplyError, OptionError, RunDirectoryError
from forgetkit.record import RunDirectory
from forgetkit.record.files import write_output
from forgetkit.record.validation import reason


def read(directory: RunDirectory, mega_batch: int) -> Mapping[str, Tensor]:
    """The masks that a run kept after a mega-batch.

    Raises:
        RunDirectoryError: They are missing, damaged or of other parameters than the run reset: a shape alone could
            ask for more memory than there is.
    """
    try:
        state = directory.masks_of(mega_batch)
        masks = forgetting.restored(state)
        layers = directory.result["mega_batches"][mega_batch - 1]["unlearn"]["layers"]
        if state.keys() != layers.keys():
            raise ValueError("they are of other parameters than those that were reset")
        for name, entry in state.items():
            size, reset = layers[name]["size"], layers[name]["reset"]
            if math.prod(entry["shape"]) != size or int(masks[name].sum()) != reset:
                raise ValueError(f"'{name}' has another shape than the parameter, or more entries than were reset")
        return masks
    except (IndexError, KeyError, TypeError, ValueError) as error:
        what = f"the masks of mega-batch {mega_batch} in {directory.path}"
        raise RunDirectoryError(f"{what} are damaged ({reason(error)}); the same run again makes them") from error


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
        for name, mask in read(directory, mega_batch).items()
    }
    if not arrays:
        raise DoesNotApplyError(f"{folder} has no masks: it is no run, forgot nothing, or had --keep-masks none")
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_output(file, content.getbuffer())
    return len(arrays)
