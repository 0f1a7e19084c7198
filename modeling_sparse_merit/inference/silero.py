# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Silero VAD, a small recurrent network that tells speech from noise, run with onnxruntime.

The model is a file of the package `silero_vad` (MIT), which is not imported: its import would change the number of
torch's threads.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..models.sparse_merit.activity import FRAME
from ..models.sparse_merit.audio import SAMPLING_RATE

BLOCK, CONTEXT = 512, 64  # samples that the model takes at 16 kHz, and those before them
STATE = (2, 1, 128)
ONSET, OFFSET = 0.5, 0.35  # the authors' thresholds: speech begins at the first and ends below the second
MODEL = "data/silero_vad.onnx"
INSTALL = "Silero VAD needs the packages silero-vad and onnxruntime: pip install 'modeling-sparse-merit[vad]'."


class SileroVoiceActivity:
    """Finds speech in the consecutive pieces of one recording.

    The samples after the last whole block of 512 wait for the next piece, so the model sees the recording as if it
    were not cut.

    Usage:
        >>> detector = SileroVoiceActivity()
        >>> speech = [detector.speech_frames(piece) for piece in pieces]   # bool (frames,) of each
        >>> detector.reset()                                               # before the next recording

    Raises:
        ImportError: silero-vad or onnxruntime is not installed.
    """

    def __init__(self) -> None:
        self._session = _session()
        self.reset()

    def reset(self) -> None:
        """Forgets the recording."""
        self._state = np.zeros(STATE, np.float32)
        self._context = np.zeros(CONTEXT, np.float32)
        self._waiting = np.zeros(0, np.float32)
        self._speaks = False

    def speech_probabilities(self, samples: np.ndarray) -> np.ndarray:
        """The probability of speech in each block that the samples complete.

        Args:
            samples: (samples,) at 16 kHz, which follow those of the last call.

        Returns:
            float32 (blocks,): the first block begins with the samples that waited.
        """
        signal = np.concatenate([self._context, self._waiting, samples]).astype(np.float32, copy=False)
        blocks = (len(signal) - CONTEXT) // BLOCK
        probabilities = np.empty(blocks, np.float32)
        for block in range(blocks):
            start = block * BLOCK
            inputs = {
                "input": signal[None, start : start + CONTEXT + BLOCK],  # (1, context + block)
                "state": self._state,
                "sr": np.array(SAMPLING_RATE, np.int64),
            }
            output, self._state = self._session.run(None, inputs)
            probabilities[block] = output[0, 0]
        self._context, self._waiting = np.split(signal[blocks * BLOCK :], [CONTEXT])
        return probabilities

    def speech_frames(self, samples: np.ndarray) -> np.ndarray:
        """Which frames of the next piece are speech.

        A frame is what the block at its centre is; the frames after the last whole block are what that block is.

        Args:
            samples: (samples,) at 16 kHz, which follow those of the last call.

        Returns:
            bool (ceil(samples / 320),).
        """
        waited = len(self._waiting)
        blocks = [self._speaks]
        for probability in self.speech_probabilities(samples):
            self._speaks = bool(probability >= (OFFSET if self._speaks else ONSET))
            blocks.append(self._speaks)
        centres = waited + FRAME * np.arange(-(-len(samples) // FRAME)) + FRAME // 2
        return np.array(blocks)[np.minimum(1 + centres // BLOCK, len(blocks) - 1)]


def _session():
    """The model on one thread: a block is too little work for more."""
    package = find_spec("silero_vad")
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(INSTALL) from error
    if package is None:
        raise ImportError(INSTALL)
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    path = Path(package.submodule_search_locations[0]) / MODEL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
