# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""PESQ as a module of `evaluate`."""

from functools import partial

from modeling_sparse_merit.metrics.modules import ClipsMeasure
from modeling_sparse_merit.metrics.scores import ClipMeasure
from modeling_sparse_merit.metrics.speech import pesq


class Pesq(ClipsMeasure):
    """Perceptual evaluation of speech quality, as MOS-LQO: up to 4.64 with `mode="wb"` (wide-band, the default, at
    16 kHz), up to 4.55 with `mode="nb"` (narrow-band, at 16 or 8 kHz). Undefined for silence, clips without an
    utterance, shorter than a quarter of a second or longer than 20 s."""

    options = ClipsMeasure.options | {"mode": "wb"}
    citation = """@misc{itu_p862_2,
  title = {Wideband extension to Recommendation {P.862}
    for the assessment of wideband telephone networks and speech codecs},
  author = {{ITU-T}},
  howpublished = {Recommendation P.862.2},
  year = {2007},
}"""

    def clip_measure(self, sampling_rate: int, mode: str) -> ClipMeasure:  # type: ignore[override]  # its own options
        """PESQ of a clean and an enhanced clip.

        Args:
            sampling_rate: sampling rate of both clips in Hz.
            mode: "wb" (wide-band) or "nb" (narrow-band).
        """
        return partial(pesq, sampling_rate=sampling_rate, mode=mode)
