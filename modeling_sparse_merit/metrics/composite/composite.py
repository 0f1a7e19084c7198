# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""CSIG, CBAK and COVL as a module of `evaluate`."""

from functools import partial

from modeling_sparse_merit.metrics.modules import ClipsMeasure
from modeling_sparse_merit.metrics.quality import composite
from modeling_sparse_merit.metrics.scores import ClipMeasure


class Composite(ClipsMeasure):
    """Predicted opinions, 1 to 5, of the signal (`csig`), the background (`cbak`) and the whole (`covl`), of clips at
    16 kHz, with wide-band PESQ as papers on VoiceBank-DEMAND compute them. Undefined where PESQ is."""

    citation = """@article{hu2008,
  title = {Evaluation of Objective Quality Measures for Speech Enhancement},
  author = {Hu, Yi and Loizou, Philipos C.},
  journal = {IEEE Transactions on Audio, Speech, and Language Processing},
  volume = {16}, number = {1}, year = {2008},
}"""

    def clip_measure(self, sampling_rate: int) -> ClipMeasure:  # type: ignore[override]  # its own options
        return partial(composite, sampling_rate=sampling_rate)
