# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Tells speech from silence and noise by level: what the enhancement keeps of a piece of a recording is speech."""

import numpy as np

FRAME = 320  # samples, 20 ms at 16 kHz
SMOOTHING = 9  # frames: a syllable, so the closures of stops do not count as pauses
FLOOR = -75.0  # dBFS: speech at -50 dBFS RMS reaches this far down, 16-bit dither lies 20 dB below
RANGE = 35.0  # dB below the loudest frame, as far as fricatives and fading ends of words go
SPEECH_LOSS = 6.0  # dB: where the enhancement removes less, speech is not far below the noise
FRAME_LOSS = 16.0  # dB: a weak phone among speech may lose as much
EVIDENCE = 10  # frames of little loss that a piece with speech has, 0.2 s: a short word
RISE = 6.0  # dB above the quietest frames: noise that is steady varies less
GAP = 12  # frames: shorter pauses belong to the speech around them
BURST = 5  # frames: what is shorter, 0.1 s, is a click


def speech_frames(noisy: np.ndarray, enhanced: np.ndarray | None = None) -> np.ndarray:
    """Which frames of one piece of a recording are speech.

    A piece is speech where the enhanced signal is loud for the piece and the enhancement removes little. In a piece
    without 0.2 s in which it removes less than 6 dB, nothing is speech. The answer does not depend on the level, but
    for what lies below -75 dBFS, which is never speech.

    Args:
        noisy: (samples,) at 16 kHz, full scale +-1; pieces of 1 to 8 s, cut where they are quiet.
        enhanced: (samples,), the same piece after the enhancement; None where a model has none. Then every sound is
            speech that rises 6 dB above the quietest frames.

    Returns:
        bool (ceil(samples / 320),).

    Raises:
        ValueError: the two signals differ in length.
    """
    if enhanced is not None and len(enhanced) != len(noisy):
        raise ValueError(f"enhanced has {len(enhanced)} samples, expected {len(noisy)}, as noisy has.")
    if len(noisy) == 0:
        return np.zeros(0, bool)
    level = _levels(noisy if enhanced is None else enhanced)
    loud = (level > FLOOR) & (level > level.max() - RANGE)
    if enhanced is None:
        evidence = speech = loud & (level > np.percentile(level, 5) + RISE)
    else:
        loss = _levels(noisy) - level
        evidence, speech = loud & (loss < SPEECH_LOSS), loud & (loss < FRAME_LOSS)
    if evidence.sum() < EVIDENCE:
        return np.zeros(len(level), bool)
    return _tidy(speech)


def _levels(signal: np.ndarray) -> np.ndarray:
    """Smoothed levels in dBFS, (samples,) to (frames,), of the frames without their means (offset, rumble)."""
    frames = np.pad(signal, (0, -len(signal) % FRAME), mode="edge").reshape(-1, FRAME)  # (frames, samples of a frame)
    power = np.pad(frames.var(axis=1, dtype=np.float64), SMOOTHING // 2, mode="edge")
    return 10 * np.log10(np.convolve(power, np.full(SMOOTHING, 1 / SMOOTHING), "valid") + 1e-12)


def _tidy(speech: np.ndarray) -> np.ndarray:
    """Closes short pauses between speech, then drops short speech; (frames,) to (frames,)."""
    tidy = speech.copy()
    for start, end in _runs(~tidy):
        if 0 < start and end < len(tidy) and end - start < GAP:
            tidy[start:end] = True
    for start, end in _runs(tidy):
        if end - start < BURST:
            tidy[start:end] = False
    return tidy


def _runs(mask: np.ndarray) -> np.ndarray:
    """Starts and ends of the runs of True, (runs, 2)."""
    return np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
