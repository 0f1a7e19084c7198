# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Silero VAD, a small recurrent network that detects speech in noise, run with onnxruntime.

The model is a file of the package `silero_vad` (MIT). The package is not imported, since that changes the number of
threads of torch.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..models.sparse_merit.cutting import FRAME, Window

BLOCK, CONTEXT = 512, 64  # samples per step of the model at 16 kHz, and samples of context before them
STATE = (1, 1, 128)
ONSET, OFFSET = 0.5, 0.35  # the authors' thresholds: speech starts at the first and ends below the second
MODEL = "data/silero_vad_16k_sequence.onnx"  # processes many blocks per call: same probabilities, three times as fast
INSTALL = "Silero VAD needs silero-vad>=6.2.3 and onnxruntime: pip install 'modeling-sparse-merit[vad]'."


class SileroDetector:
    """Detects speech in the noisy signal of one recording, window by window.

    A frame of 20 ms gets the decision of the 32-ms block at its centre. Decisions do not depend on how a recording is
    cut into windows, except that in a window without right context, the frames after the last whole block get the
    decision of that block.

    Usage:
        >>> from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("tiny")
        >>> result = pipe("call.wav", detector=SileroDetector)
        >>> stream = pipe.stream(detector=SileroDetector)

    Raises:
        ImportError: silero-vad or onnxruntime is not installed.
    """

    uses_enhancement = False

    def __init__(self) -> None:
        self._model = _session()
        self._states = {"h": np.zeros(STATE, np.float32), "c": np.zeros(STATE, np.float32)}
        self._waiting = np.zeros(CONTEXT, np.float32)  # context of the next block, and its samples so far
        self._end = 0  # number of samples so far
        self._speech = np.zeros(1, bool)  # decisions of the last blocks
        self._first = -1  # index of the first of them; there is no speech before the recording

    def __call__(self, window: Window, enhanced: np.ndarray | None = None) -> np.ndarray:
        """Which frames of the next window are speech.

        Args:
            window: the next window of the recording.
            enhanced: unused, since the model was trained on noisy speech.

        Returns:
            bool (ceil(samples of the piece / 320),).
        """
        self._add(window.waveform[self._end - (window.start - window.left) :])
        centres = np.arange(window.start, window.end, FRAME) + FRAME // 2
        last = len(self._speech) - 1
        frames = self._speech[np.minimum(centres // BLOCK - self._first, last)]
        forgotten = min(max(0, window.end // BLOCK - self._first), last)
        self._speech, self._first = self._speech[forgotten:], self._first + forgotten
        return frames

    def _add(self, samples: np.ndarray) -> None:
        """Adds the next samples of the recording."""
        self._end += len(samples)
        speech = self._speech.tolist()
        for probability in self._probabilities(samples):
            speech.append(bool(probability >= (OFFSET if speech[-1] else ONSET)))
        self._speech = np.array(speech)

    def _probabilities(self, samples: np.ndarray) -> np.ndarray:
        """The probability of speech in each block completed by the samples, (blocks,)."""
        signal = np.concatenate([self._waiting, samples]).astype(np.float32, copy=False)
        count = (len(signal) - CONTEXT) // BLOCK
        self._waiting = signal[count * BLOCK :].copy()
        if count == 0:
            return np.zeros(0, np.float32)
        blocks = np.lib.stride_tricks.sliding_window_view(signal, CONTEXT + BLOCK)[::BLOCK]  # (blocks, 576)
        inputs = {"input": np.ascontiguousarray(blocks), **self._states}
        probabilities, self._states["h"], self._states["c"] = self._model.run(None, inputs)
        return probabilities


@cache
def _session() -> Any:
    """The model, shared by all threads; each runs it on one core, since it is too small for more."""
    package = find_spec("silero_vad")
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(INSTALL) from error
    places = package.submodule_search_locations if package else None
    path = Path(places[0], MODEL) if places else None
    if path is None or not path.is_file():
        raise ImportError(INSTALL)
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
