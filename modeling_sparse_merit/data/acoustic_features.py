# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech datasets with acoustic descriptors of each clip at several speeds, for pre-training an encoder.

The descriptors, 100 frames a second, are of the kinds of the Geneva minimalistic set (eGeMAPS; Eyben et al., IEEE
Transactions on Affective Computing, 2016): loudness and shape of the spectrum in every frame; pitch, harmonicity and
formants, computed by Praat, in voiced frames. Clips of the train split are included at every speed, those of the dev
split at their original speed only; other splits are left out.
"""

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from multiprocessing import Pool
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from datasets import Dataset, DatasetInfo, Features, List, Value
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import dct
from transformers.audio_utils import mel_filter_bank

from ..models.sparse_merit.audio import SAMPLING_RATE, as_pcm16, load_audio, resample
from .datasets import DatasetError, read_dataset

SPEEDS = (1.0, 0.87, 1.07, 1.15)
LEVEL = 10 ** (-25 / 20)  # RMS of what is described, -25 dBFS: most descriptors depend on the level
HOP = 160  # samples between frames
N_FFT = 1024
FLOOR = 1e-6  # of powers: 60 to 70 dB below those of a voice
PITCH_FLOOR, PITCH_CEILING = 60.0, 600.0  # Hz
NUM_FORMANTS = 3
SPECTRAL: tuple[str, ...] = ("level", "alpha_ratio", "hammarberg_index", "slope_0_500", "slope_500_1500", "flux")
SPECTRAL += tuple(f"mfcc_{order}" for order in range(1, 5))
VOICED: tuple[str, ...] = ("pitch", "harmonicity", "h1_h2")
VOICED += tuple(
    f"f{number}_{of}" for number in range(1, NUM_FORMANTS + 1) for of in ("frequency", "bandwidth", "level")
)
NAMES = SPECTRAL + VOICED


def build(
    speech: str | Path,
    scratch: str | Path,
    speeds: Sequence[float] = SPEEDS,
    processes: int = 1,
) -> Dataset:
    """Adds the columns `speed` and `descriptors` to a speech dataset.

    `descriptors` are (frames, 22) float16, frame k centred at (k + 1) * 10 ms of the clip at its speed, as `describe`
    makes them.

    Args:
        speech: the speech dataset.
        scratch: a folder for the clips, which may not fit into memory; keep it as long as the dataset is used.
        speeds: speed factors of the train clips: 1.1 is faster, and higher in pitch.
        processes: number of processes; the dataset does not depend on it.

    Raises:
        DatasetError: Praat's library is not installed, a speed is out of range, or there is no clip of train or dev.
    """
    speeds = _checked_speeds(speeds)
    praat()
    source = read_dataset(speech)
    jobs = [
        (row, speed)
        for row, split in enumerate(source.data.column("split").to_pylist())
        for speed in (speeds if split == "train" else (1.0,))
        if split in ("train", "dev")
    ]
    if not jobs:
        raise DatasetError(f"{speech} has no row of the splits train and dev; descriptors are computed for these only")
    path, features = Path(scratch) / "described.arrow", described_features(source.features)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, features.arrow_schema) as writer:
        rows = _rows(source, jobs, processes)
        while some := list(islice(rows, 100)):
            writer.write_batch(pa.RecordBatch.from_pylist(some, schema=features.arrow_schema))
    return Dataset.from_file(str(path), info=_origin(source.info, speeds))


def described_features(features: Features) -> Features:
    """The schema of a speech dataset with the columns `speed` and `descriptors` added."""
    frames = List(List(Value("float16")))
    return Features({**features, "speed": Value("float32"), "descriptors": frames})


def describe(waveform: np.ndarray) -> np.ndarray:
    """The descriptors `NAMES` of a recording (samples,) at 16 kHz: (frames, 22) float16, all finite.

    Levels, ratios and the harmonicity are in dB, slopes in dB a kHz, the pitch in semitones above 27.5 Hz, formants in
    kHz, their levels those of the nearest harmonic against the first. Pitch, harmonicity and formants are 0 in
    unvoiced frames.

    Raises:
        DatasetError: Praat's library is not installed.
    """
    waveform = waveform - waveform.mean()
    waveform = waveform * (LEVEL / max(float(np.sqrt(np.mean(waveform**2))), 1e-9))
    times = (1 + np.arange(max(1, len(waveform) // HOP))) * HOP / SAMPLING_RATE  # (K,) seconds
    levels = _levels(waveform, len(times))  # (K, bins) dB
    columns = np.stack([*_spectral(levels), *_voice(waveform, times, levels)], axis=1)  # (K, 22)
    return np.nan_to_num(columns, nan=0, posinf=0, neginf=0).astype(np.float16)


def _levels(waveform: np.ndarray, num_frames: int) -> np.ndarray:
    """Power spectra in dB of Hann windows of 25 ms, frame k centred at (k + 1) * 10 ms: (samples,) -> (K, bins)."""
    window = 400
    padded = np.pad(waveform, window)
    starts = window - window // 2 + HOP * (1 + np.arange(num_frames))
    frames = sliding_window_view(padded, window)[starts] * np.hanning(window + 2)[1:-1]  # (K, window)
    return 10 * np.log10(np.abs(np.fft.rfft(frames, N_FFT)) ** 2 + FLOOR)


def _spectral(levels: np.ndarray) -> Iterator[np.ndarray]:
    """The descriptors `SPECTRAL` of (K, bins), each (K,)."""
    hertz = np.fft.rfftfreq(N_FFT, 1 / SAMPLING_RATE)
    power = 10 ** (levels / 10)

    def band(low: float, high: float) -> slice:
        return slice(*np.searchsorted(hertz, (low, high)))

    def decibels(values: np.ndarray) -> np.ndarray:
        return 10 * np.log10(values + FLOOR)

    def slope(low: float, high: float) -> np.ndarray:
        kilohertz = hertz[band(low, high)] / 1000
        centred = kilohertz - kilohertz.mean()
        return levels[:, band(low, high)] @ centred / (centred @ centred)

    yield decibels(power.sum(1))
    yield decibels(power[:, band(50, 1000)].sum(1)) - decibels(power[:, band(1000, 5000)].sum(1))
    yield levels[:, band(0, 2000)].max(1) - levels[:, band(2000, 5000)].max(1)
    yield slope(0, 500)
    yield slope(500, 1500)
    shape = levels - levels.mean(1, keepdims=True)
    yield np.sqrt(np.mean(np.diff(shape, axis=0, prepend=shape[:1]) ** 2, axis=1))
    mel = power @ _mel_filters()  # (K, bands)
    yield from dct(np.log(mel + FLOOR), norm="ortho", axis=1)[:, 1:5].T


def _voice(waveform: np.ndarray, times: np.ndarray, levels: np.ndarray) -> Iterator[np.ndarray]:
    """The descriptors `VOICED`, each (K,); 0 without a voice."""
    sound = praat().Sound(waveform.astype(np.float64), SAMPLING_RATE)
    try:
        track = sound.to_pitch_ac(time_step=HOP / SAMPLING_RATE, pitch_floor=PITCH_FLOOR, pitch_ceiling=PITCH_CEILING)
        formants = sound.to_formant_burg(time_step=HOP / SAMPLING_RATE, maximum_formant=5500.0)
    except praat().PraatError:  # too short for a period of the lowest pitch
        yield from np.zeros((len(VOICED), len(times)))
        return
    nearest = np.abs(track.xs()[None] - times[:, None]).argmin(1)  # (K,)
    pitch, strength = (track.selected_array[name][nearest] for name in ("frequency", "strength"))
    voiced = pitch > 0
    first, second = _level_at(levels, pitch), _level_at(levels, 2 * pitch)
    of_formants = []
    for number in range(1, NUM_FORMANTS + 1):
        frequency = np.array([formants.get_value_at_time(number, time) for time in times])  # (K,) Hz
        bandwidth = np.array([formants.get_bandwidth_at_time(number, time) for time in times])
        harmonic = pitch * np.rint(frequency / np.maximum(pitch, 1))
        of_formants += [frequency / 1000, bandwidth / 1000, _level_at(levels, harmonic) - first]
    strength = strength.clip(1e-3, 1 - 1e-3)
    semitones = 12 * np.log2(np.maximum(pitch, PITCH_FLOOR) / 27.5)
    for values in (semitones, 10 * np.log10(strength / (1 - strength)), first - second, *of_formants):
        yield np.where(voiced, np.nan_to_num(values), 0.0)


def _level_at(levels: np.ndarray, hertz: np.ndarray) -> np.ndarray:
    """The highest level within two bins of a frequency: (K, bins), (K,) -> (K,)."""
    centre = np.rint(np.nan_to_num(hertz) * N_FFT / SAMPLING_RATE).astype(int)
    bins = (centre[:, None] + np.arange(-2, 3)).clip(0, levels.shape[1] - 1)
    return np.take_along_axis(levels, bins, axis=1).max(1)


@lru_cache(maxsize=1)
def _mel_filters() -> np.ndarray:
    """(bins, 26)."""
    return mel_filter_bank(N_FFT // 2 + 1, 26, 20.0, 8000.0, SAMPLING_RATE, mel_scale="htk")


def flac(waveform: np.ndarray) -> bytes:
    """A recording (samples,) at 16 kHz as a FLAC file of 16 bits, scaled down where it exceeds full scale."""
    waveform = waveform / max(1.0, float(np.abs(waveform).max()))
    samples = as_pcm16(waveform)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLING_RATE, format="FLAC")
    return buffer.getvalue()


def _rows(source: Dataset, jobs: Sequence[tuple[int, float]], processes: int) -> Iterator[dict[str, Any]]:
    """The rows in the order of the jobs, (row of the source, speed) each."""
    recordings = ((source[row]["audio"], speed) for row, speed in jobs)
    columns = source.remove_columns("audio")
    if processes == 1:
        yield from (columns[row] | one for (row, _), one in zip(jobs, map(_clip, recordings), strict=True))
        return
    with Pool(processes) as pool:
        clips = pool.imap(_clip, recordings, chunksize=8)
        yield from (columns[row] | one for (row, _), one in zip(jobs, clips, strict=True))


def _clip(job: tuple[dict[str, Any], float]) -> dict[str, Any]:
    """The columns of a row that depend on the speed."""
    recording, speed = job
    waveform = resample(load_audio(recording), round(SAMPLING_RATE * speed), SAMPLING_RATE)
    name = Path(recording.get("path") or "clip").stem
    return {
        "audio": {"bytes": flac(waveform), "path": f"{name}.flac"},
        "duration": len(waveform) / SAMPLING_RATE,
        "speed": speed,
        "descriptors": list(describe(waveform)),
    }


def praat() -> ModuleType:
    """Praat as a library.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        import parselmouth
    except ImportError as error:
        raise DatasetError(
            "descriptors and prosody need the package `praat-parselmouth`: pip install "
            '"modeling-sparse-merit[pretraining]"'
        ) from error
    return parselmouth


def _checked_speeds(speeds: Sequence[float]) -> tuple[float, ...]:
    """Each speed once, in order."""
    if not speeds or not all(0.5 <= speed <= 2 for speed in speeds):
        raise DatasetError(f"speeds must be factors from 0.5 to 2, at least one, such as 1.0 0.9; got {list(speeds)}")
    return tuple(dict.fromkeys(float(speed) for speed in speeds))


def _origin(speech: DatasetInfo, speeds: Sequence[float]) -> DatasetInfo:
    """The metadata of the speech dataset, with a note about the added columns."""
    added = f"Train clips at the speeds {', '.join(map(str, speeds))}, with acoustic descriptors of all clips."
    return DatasetInfo(
        description=f"{speech.description} {added}".strip(), license=speech.license, citation=speech.citation
    )
