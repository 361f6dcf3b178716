"""Handwritten digits from scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forgetkit.contracts import Data, DataSplit, LoadContext


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: 1,797 real grey images of 8×8 pixels, without a download.

    Inputs are ``float32`` of shape ``(n, 1, 8, 8)`` in [0, 1] (the sixteenths of scikit-learn's
    ``load_digits``), labels 0 to 9: 1,437 for training, 360 for testing. The two parts are always the
    same; the run's seed does not change them.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """

    def load(self, context: LoadContext) -> Data:
        """Load both parts, without cache or network."""
        from sklearn.datasets import load_digits

        source = load_digits()
        inputs = (source.images / 16).astype(np.float32)[:, np.newaxis]
        labels = np.asarray(source.target, dtype=np.int64)

        # Every fifth sample, counted class by class, is a test sample: stratified to within one sample
        # per class, and no generator is involved that a later version could draw from differently.
        test = np.zeros(len(labels), dtype=bool)
        test[np.argsort(labels, kind="stable")[::5]] = True
        return Data(
            train=DataSplit(inputs[~test], labels[~test]),
            test=DataSplit(inputs[test], labels[test]),
            classes=tuple(str(digit) for digit in range(10)),
        )
