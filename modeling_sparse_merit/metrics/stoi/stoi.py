# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""STOI and extended STOI as a module of `evaluate`."""

from functools import partial

from modeling_sparse_merit.metrics.modules import ClipsMeasure
from modeling_sparse_merit.metrics.scores import ClipMeasure
from modeling_sparse_merit.metrics.speech import stoi


class Stoi(ClipsMeasure):
    """Short-time objective intelligibility, at most 1; with `extended=True` the measure for modulated noise.
    `resampler="pystoi"` reproduces the scores of that package, `"scipy"` those in papers on VoiceBank-DEMAND; the
    default is "scipy", and "pystoi" for the extended measure. Undefined with less than 0.4 s of speech."""

    options = ClipsMeasure.options | {"extended": False, "resampler": None}
    citation = """@article{taal2011,
  title = {An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech},
  author = {Taal, Cees H. and Hendriks, Richard C. and Heusdens, Richard and Jensen, Jesper},
  journal = {IEEE Transactions on Audio, Speech, and Language Processing},
  volume = {19}, number = {7}, year = {2011},
}
@article{jensen2016,
  title = {An Algorithm for Predicting the Intelligibility of Speech Masked by Modulated Noise Maskers},
  author = {Jensen, Jesper and Taal, Cees H.},
  journal = {IEEE/ACM Transactions on Audio, Speech, and Language Processing},
  volume = {24}, number = {11}, year = {2016},
}"""

    def clip_measure(self, sampling_rate: int, extended: bool, resampler: str | None) -> ClipMeasure:  # type: ignore[override]  # its own options
        """STOI of a clean and an enhanced clip.

        Args:
            sampling_rate: sampling rate of both clips in Hz.
            extended: use the extended measure for modulated noise.
            resampler: "scipy", "pystoi" or None, see `metrics.speech.stoi`.
        """
        return partial(stoi, sampling_rate=sampling_rate, extended=extended, resampler=resampler)
