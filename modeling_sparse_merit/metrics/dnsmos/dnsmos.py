# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""DNSMOS as a module of `evaluate`."""

import numpy as np
from datasets import Features, List, Value

from modeling_sparse_merit.metrics.modules import ClipsMeasure
from modeling_sparse_merit.metrics.ratings import dnsmos
from modeling_sparse_merit.metrics.scores import ClipMeasure


class Dnsmos(ClipsMeasure):
    """Ratings of P.835 as listeners would give them, 1 to 5, predicted without the clean speech: the overall quality
    (`dnsmos_ovrl`), the signal (`dnsmos_sig`) and the background (`dnsmos_bak`) of clips at 16 kHz. Undefined for a
    silent clip."""

    usage = ClipsMeasure.usage.replace("    references: their clean clips, each as long as its prediction.\n", "")
    citation = """@inproceedings{reddy2022,
  title = {{DNSMOS} {P}.835: A non-intrusive perceptual objective speech quality metric
    to evaluate noise suppressors},
  author = {Reddy, Chandan K. A. and Gopal, Vishak and Cutler, Ross},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing},
  year = {2022},
}"""

    def _features(self) -> Features:
        return Features({"predictions": List(Value("float32"))})

    def clip_measure(self, sampling_rate: int) -> ClipMeasure:  # type: ignore[override]  # its own options
        """DNSMOS of a clip; the first argument of the function is not used.

        Args:
            sampling_rate: sampling rate of the clips in Hz.
        """

        def rate(_: np.ndarray, enhanced: np.ndarray) -> dict[str, float]:
            return dnsmos(enhanced, sampling_rate)

        return rate
