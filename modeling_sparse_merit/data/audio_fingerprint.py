# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Fingerprints that recognise copies of a recording after changes of level, offset, start, rate or encoding.

The method is that of Haitsma and Kalker, "A highly robust audio fingerprinting system", ISMIR 2002, with shorter
frames for short clips of speech. Every 16 ms, a frame of 256 ms is summarised in 32 bits: the signs of the differences
of log energy between adjacent ones of 33 bands (300 to 2000 Hz), compared with the frame before. A second of audio
needs 250 bytes.

Measured on six corpora (ravdess, nemo, speechocean762, emodb, baved, ased): copies as MP3 or Vorbis, trimmed, padded
or resampled differ in at most 16 % of the bits, and different recordings, also of one sentence by one speaker, in at
least 40 %. Copies through a low-rate codec such as GSM, or in noise, are not always recognised.
"""

from collections.abc import Sequence

import numpy as np
from scipy.fft import rfft

from ..models.sparse_merit.audio import resample

RATE = 8_000  # Hz
FRAME, HOP = 2_048, 128  # samples, 256 ms and 16 ms
BANDS = np.geomspace(300, 2_000, 34)  # edges in Hz
BITS = 32
MAX_DIFFERENCE = 0.2  # share of differing bits in copies
MIN_FRAMES = 24  # common to two copies
MIN_OVERLAP = 0.8  # of the shorter copy
MAX_REPETITIONS = 16  # of one value, which are compared with each other


def audio_fingerprint(waveform: np.ndarray, rate: int) -> np.ndarray:
    """The fingerprint of a recording.

    Args:
        waveform: float32 (samples,).
        rate: sampling rate in Hz.

    Returns:
        uint32 (frames,), one value every 16 ms; 0 marks digital silence.
    """
    waveform = resample(waveform, rate, RATE)
    waveform = np.pad(waveform, (0, max(0, FRAME + HOP - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, FRAME)[::HOP]  # (frames + 1, FRAME)
    power = np.square(np.abs(rfft(frames * np.hanning(FRAME).astype(np.float32), axis=1)))
    starts = np.searchsorted(np.arange(power.shape[1]) * RATE / FRAME, BANDS)
    energies = np.log(np.add.reduceat(power, starts, axis=1)[:, :-1] + 1e-12)  # (frames + 1, 33)
    rises = np.diff(np.diff(energies, axis=1), axis=0) > 0  # (frames, 32)
    return np.packbits(rises, axis=1).view(">u4")[:, 0].astype(np.uint32)


def copies(fingerprints: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of recordings of which one holds at least 80 % of the other.

    Pairs that share the value of a frame are aligned there and compared bit by bit, so that the time grows with the
    length of all recordings rather than with the number of pairs.

    Args:
        fingerprints: from `audio_fingerprint`.

    Returns:
        Indices of the recordings, the smaller one first, in order.
    """
    pairs: set[tuple[int, int]] = set()
    for first, second, shift in _alignments(fingerprints).tolist():
        if (first, second) not in pairs and _is_copy(fingerprints[first], fingerprints[second], shift):
            pairs.add((first, second))
    return sorted(pairs)


def _alignments(fingerprints: Sequence[np.ndarray]) -> np.ndarray:
    """Pairs of recordings with a common value, and the frames by which it is later in the second: (alignments, 3)."""
    lengths = [len(fingerprint) for fingerprint in fingerprints]
    if not sum(lengths):
        return np.empty((0, 3), int)
    values = np.concatenate(fingerprints)
    clips = np.repeat(np.arange(len(lengths)), lengths)
    frames = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    order = np.argsort(values, kind="stable")  # clips of one value stay in their order
    order = order[values[order] != 0]
    values, clips, frames = values[order], clips[order], frames[order]
    alignments = [np.empty((0, 3), int)]
    for distance in range(1, min(MAX_REPETITIONS, len(values))):
        first = np.flatnonzero((values[distance:] == values[:-distance]) & (clips[distance:] != clips[:-distance]))
        second = first + distance
        alignments.append(np.stack([clips[first], clips[second], frames[second] - frames[first]], axis=1))
    return np.unique(np.concatenate(alignments), axis=0)


def _is_copy(first: np.ndarray, second: np.ndarray, shift: int) -> bool:
    """Whether two fingerprints agree where they overlap, without frames of digital silence in either."""
    start, end = max(0, -shift), min(len(first), len(second) - shift)
    first_part, second_part = first[start:end], second[start + shift : end + shift]
    is_sound = (first_part != 0) & (second_part != 0)
    count = np.count_nonzero(is_sound)
    if count < max(MIN_FRAMES, MIN_OVERLAP * min(np.count_nonzero(first), np.count_nonzero(second))):
        return False
    differing = np.bitwise_count(first_part[is_sound] ^ second_part[is_sound]).sum()
    return bool(differing <= MAX_DIFFERENCE * BITS * count)
