# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Silero VAD, a small recurrent network that tells speech from noise, run with onnxruntime.

The model is a file of the package `silero_vad` (MIT), which is not imported: its import would change the number of
torch's threads.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..models.sparse_merit.cutting import FRAME, Window

BLOCK, CONTEXT = 512, 64  # samples that the model takes at 16 kHz, and those before them
STATE = (1, 1, 128)
ONSET, OFFSET = 0.5, 0.35  # the authors' thresholds: speech begins at the first and ends below the second
MODEL = "data/silero_vad_16k_sequence.onnx"  # many blocks in one call, the same probabilities three times as fast
INSTALL = "Silero VAD needs silero-vad>=6.2.3 and onnxruntime: pip install 'modeling-sparse-merit[vad]'."


class SileroDetector:
    """Finds the speech of one recording in its noisy signal, window by window.

    A frame of 20 ms is what the block of 32 ms at its centre is. The model sees the recording as if it were not cut;
    where a window has no context on the right, the frames after the last whole block are what that block is.

    Usage:
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
        self._end = 0  # samples of the recording that came
        self._speech = np.zeros(1, bool)  # of the last blocks
        self._first = -1  # place of the first of them; before the recording is no speech

    def __call__(self, window: Window, enhanced: np.ndarray | None = None) -> np.ndarray:
        """Which frames of the next window are speech.

        Args:
            window: follows that of the last call.
            enhanced: is not used: the model was trained on noisy speech.

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
        """Takes the next samples of the recording."""
        self._end += len(samples)
        speech = self._speech.tolist()
        for probability in self._probabilities(samples):
            speech.append(bool(probability >= (OFFSET if speech[-1] else ONSET)))
        self._speech = np.array(speech)

    def _probabilities(self, samples: np.ndarray) -> np.ndarray:
        """The probability of speech in each block that the samples complete, (blocks,)."""
        signal = np.concatenate([self._waiting, samples]).astype(np.float32, copy=False)
        count = (len(signal) - CONTEXT) // BLOCK
        self._waiting = signal[count * BLOCK :].copy()
        if count == 0:
            return np.zeros(0, np.float32)
        blocks = np.lib.stride_tricks.sliding_window_view(signal, CONTEXT + BLOCK)[::BLOCK]  # (blocks, 576)
        inputs = {"input": np.ascontiguousarray(blocks), **self._states}
        found, self._states["h"], self._states["c"] = self._model.run(None, inputs)
        return found


@cache
def _session():
    """The model, one for all threads, each of which runs it alone: there is too little work in it for more."""
    package = find_spec("silero_vad")
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(INSTALL) from error
    path = Path(package.submodule_search_locations[0], MODEL) if package else None
    if path is None or not path.is_file():
        raise ImportError(INSTALL)
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
