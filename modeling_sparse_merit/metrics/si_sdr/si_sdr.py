# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""SI-SDR as a module of `evaluate`."""

from modeling_sparse_merit.metrics.modules import ClipsMeasure
from modeling_sparse_merit.metrics.scores import ClipMeasure
from modeling_sparse_merit.metrics.speech import si_sdr


class SiSdr(ClipsMeasure):
    """Scale-invariant signal-to-distortion ratio in dB, after removing means; independent of the sampling rate.
    Undefined if a clip is silent; infinite for an exact copy."""

    citation = """@inproceedings{leroux2019,
  title = {{SDR} -- Half-baked or Well Done?},
  author = {Le Roux, Jonathan and Wisdom, Scott and Erdogan, Hakan and Hershey, John R.},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing},
  year = {2019},
}"""

    def clip_measure(self, sampling_rate: int) -> ClipMeasure:  # type: ignore[override]  # its own options
        return si_sdr
