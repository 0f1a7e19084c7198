# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech datasets with pitch and share of active speech of each clip: ratings that need no listeners.

A regression task learns to estimate them in noise; the targets are those of the clean speech. Mean and range of the
logarithmic pitch are measures of the Geneva minimalistic set (eGeMAPS; Eyben et al., IEEE Transactions on Affective
Computing, 2016), here in octaves, so that all three columns have similar scales.
"""

from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from ..models.sparse_merit.audio import SAMPLING_RATE, load_audio
from .acoustic_features import PITCH_CEILING, PITCH_FLOOR, praat
from .datasets import read_dataset

COLUMNS = ("log_pitch", "pitch_range", "active_share")
REFERENCE = 55.0  # Hz
FEWEST_VOICED = 10  # frames of 10 ms
FRAME = SAMPLING_RATE // 50  # 20 ms
ACTIVE = 10 ** (-30 / 10)  # power relative to that of the loudest frame, -30 dB

Measures = tuple[float | None, float | None, float | None]


def build(speech: str | Path, processes: int = 1) -> Dataset:
    """Adds the columns `COLUMNS` to a speech dataset, as `measure` computes them from each recording, or from the
    clean speech where the dataset has a column `clean`.

    Args:
        speech: the speech dataset.
        processes: number of processes; the dataset does not depend on it.

    Raises:
        DatasetError: Praat's library is not installed, or there is no such dataset.
    """
    praat()
    dataset = read_dataset(speech)
    recording = "clean" if "clean" in dataset.features else "audio"
    measures = list(_measures(dataset.select_columns([recording]), recording, processes))
    for name, values in zip(COLUMNS, zip(*measures, strict=True), strict=True):
        dataset = dataset.add_column(name, pa.array(values, pa.float32()), feature=Value("float32"))
    dataset.info.description = f"{dataset.info.description} With pitch and active speech of each clip.".strip()
    return dataset


def measure(waveform: np.ndarray) -> Measures:
    """Mean and range of the pitch, and the share of active speech. They do not depend on the level.

    Args:
        waveform: (samples,) at 16 kHz, clean speech.

    Returns:
        The mean of log2(pitch / 55 Hz) over voiced frames, in octaves; the difference between its 80th and its 20th
        percentile; and the share of frames of 20 ms that are less than 30 dB below the loudest one. The first two are
        None with fewer than ten voiced frames of 10 ms.

    Raises:
        DatasetError: Praat's library is not installed.
    """
    octaves = np.log2(_pitch(waveform) / REFERENCE)  # (voiced frames,)
    frames = np.pad(waveform, (0, -len(waveform) % FRAME), mode="edge").reshape(-1, FRAME)  # (frames, samples)
    power = frames.var(axis=1, dtype=np.float64)
    active_share = float(np.mean(power > ACTIVE * power.max()))
    if len(octaves) < FEWEST_VOICED:
        return None, None, active_share
    low, high = np.percentile(octaves, [20, 80])
    return float(octaves.mean()), float(high - low), active_share


def _pitch(waveform: np.ndarray) -> np.ndarray:
    """The pitch of voiced frames in Hz, (samples,) -> (voiced frames,)."""
    sound = praat().Sound(waveform.astype(np.float64), SAMPLING_RATE)
    try:
        track = sound.to_pitch_ac(time_step=0.01, pitch_floor=PITCH_FLOOR, pitch_ceiling=PITCH_CEILING)
    except praat().PraatError:  # too short for a period of the lowest pitch
        return np.empty(0)
    pitch = track.selected_array["frequency"]
    return pitch[pitch > 0]


def _measures(recordings: Dataset, column: str, processes: int) -> Iterator[Measures]:
    """The measures of all rows in order."""
    rows = (row[column] for row in recordings)
    if processes == 1:
        yield from map(_measure_recording, rows)
        return
    with Pool(processes) as pool:
        yield from pool.imap(_measure_recording, rows, chunksize=8)


def _measure_recording(recording: dict[str, Any]) -> Measures:
    return measure(load_audio(recording))
