# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech detection by level and by how much of a frame the enhancement removes."""

import numpy as np

from .cutting import FRAME

SMOOTHING = 9  # frames: a syllable, so the closures of stops do not count as pauses
FLOOR = -75.0  # dBFS: speech at -50 dBFS RMS reaches this far down, 16-bit dither lies 20 dB below
RANGE = 35.0  # dB below the loudest frame of a piece, as far as fricatives and fading ends of words go
LOUD = 10.0  # dB below the loudest frame: vowels
SPEECH_LOSS = 6.0  # dB more than the enhancement removes of the clearest speech: speech near the level of the noise
FRAME_LOSS = 14.0  # dB more: a weak phone among speech
EVIDENCE = 10  # frames of little loss that a piece with speech has, 0.2 s: a short word
GAP = 12  # frames: shorter pauses belong to the speech around them
BURST = 5  # frames: what is shorter, 0.1 s, is a click


class LevelDetector:
    """Finds the frames of speech in the consecutive pieces of one recording.

    A frame is speech if it is loud within its piece and the enhancement removes little of it, compared to the clearest
    speech of the recording so far. Frames below -75 dBFS are never speech. Noise in a recording without speech may be
    taken for speech; Silero VAD is more reliable.
    """

    def __init__(self) -> None:
        self._least_loss = np.inf  # dB, of the clearest speech so far

    def speech_frames(self, noisy: np.ndarray, enhanced: np.ndarray | None = None) -> np.ndarray:
        """The frames of 20 ms of the next piece that are speech.

        Args:
            noisy: (samples,) at 16 kHz, full scale +-1.
            enhanced: (samples,), the same piece after enhancement; None if the model has no enhancement, in which case
                every sound is speech.

        Returns:
            bool (ceil(samples / 320),).

        Raises:
            ValueError: the two signals differ in length.
        """
        if enhanced is not None and len(enhanced) != len(noisy):
            raise ValueError(f"enhanced has {len(enhanced)} samples, expected {len(noisy)}, as noisy has.")
        if len(noisy) == 0:
            return np.zeros(0, bool)
        levels = _levels(noisy if enhanced is None else enhanced)
        is_loud = (levels > FLOOR) & (levels > levels.max() - RANGE)
        loss = np.zeros(len(levels)) if enhanced is None else _levels(noisy) - levels
        vowels = loss[is_loud & (levels > levels.max() - LOUD)]
        if len(vowels) >= EVIDENCE:
            self._least_loss = min(self._least_loss, float(np.percentile(vowels, 25)))
        if np.count_nonzero(is_loud & (loss < self._least_loss + SPEECH_LOSS)) < EVIDENCE:
            return np.zeros(len(levels), bool)
        return _tidy(is_loud & (loss < self._least_loss + FRAME_LOSS))


def _levels(signal: np.ndarray) -> np.ndarray:
    """Smoothed levels in dBFS, (samples,) to (frames,), of the frames without their means (offset, rumble)."""
    frames = np.pad(signal, (0, -len(signal) % FRAME), mode="edge").reshape(-1, FRAME)  # (frames, samples of a frame)
    power = np.pad(frames.var(axis=1, dtype=np.float64), SMOOTHING // 2, mode="edge")
    return 10 * np.log10(np.convolve(power, np.full(SMOOTHING, 1 / SMOOTHING), "valid") + 1e-12)


def _tidy(speech: np.ndarray) -> np.ndarray:
    """Closes short pauses between speech, then drops short speech; (frames,) to (frames,)."""
    tidy = speech.copy()
    for start, end in runs(~tidy):
        if 0 < start and end < len(tidy) and end - start < GAP:
            tidy[start:end] = True
    for start, end in runs(tidy):
        if end - start < BURST:
            tidy[start:end] = False
    return tidy


def runs(mask: np.ndarray) -> np.ndarray:
    """Starts and ends of the runs of True, (runs, 2)."""
    return np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
