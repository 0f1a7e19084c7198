# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Segmental SNR as a module of `evaluate`."""

from functools import partial

from modeling_sparse_merit.metrics.modules import ClipsMeasure
from modeling_sparse_merit.metrics.scores import ClipMeasure
from modeling_sparse_merit.metrics.speech import segmental_snr


class SegmentalSnr(ClipsMeasure):
    """Mean SNR of 30-ms frames, each limited to [-10, 35] dB, sensitive to the level, as papers on
    VoiceBank-DEMAND compute it. Undefined for a silent reference and clips shorter than 37.5 ms."""

    citation = """@inproceedings{hansen1998,
  title = {An effective quality evaluation protocol for speech enhancement algorithms},
  author = {Hansen, John H. L. and Pellom, Bryan L.},
  booktitle = {International Conference on Spoken Language Processing},
  year = {1998},
}"""

    def clip_measure(self, sampling_rate: int) -> ClipMeasure:  # type: ignore[override]  # its own options
        return partial(segmental_snr, sampling_rate=sampling_rate)
