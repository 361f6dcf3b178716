"""The masks of a run: read from its directory, and written to a file for other programs."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from forgetkit import unlearning
from forgetkit.errors import InapplicableError, OptionError, RunDirectoryError
from forgetkit.storage import RunDirectory
from forgetkit.storage.atomic_files import write_output
from forgetkit.storage.validation import error_line


def read_masks(directory: RunDirectory, mega_batch: int) -> Mapping[str, Tensor]:
    """Read the masks of one mega-batch.

    Raises:
        RunDirectoryError: They are missing, damaged, or of other parameters than the run reset. A forged shape could
            need more memory than there is.
    """
    try:
        state = directory.masks_of(mega_batch)
        masks = unlearning.from_state(state)
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
        raise RunDirectoryError(f"{what} are damaged ({error_line(error)}); the same run again makes them") from error


def export_masks(folder: Path, file: Path) -> int:
    """Write ``N/PARAMETER``, a bool array of the parameter's shape for each mega-batch ``N``; return their number.

    True: the entry got a fresh value after that mega-batch. ``numpy.load(file)`` reads it. Raises
    ``InapplicableError`` if the run has no masks.
    """
    if file.suffix != ".npz":
        raise OptionError(f"--export-masks {file}: must be the name of an .npz file")
    directory = RunDirectory(folder)
    arrays = {
        f"{mega_batch}/{name}": mask.numpy()
        for mega_batch in directory.masks
        for name, mask in read_masks(directory, mega_batch).items()
    }
    if not arrays:
        raise InapplicableError(f"{folder} has no masks: it is no run, forgot nothing, or had --keep-masks none")
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_output(file, content.getbuffer())
    return len(arrays)
