# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Synthetic noises from a random number generator, which add variety to recorded noises in training.

`coloured` is noise of a random spectral envelope; `harmonic` tones are those of engines and sirens, with some hiss;
`impacts` are clicks and blows at random times; `babble` mixes several clips of speech datasets. A third of the
clips is modulated by a slow envelope (`..., modulated`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo

from ..models.sparse_merit.audio import SAMPLING_RATE, load_audio
from . import prepare
from .acoustic_features import flac
from .dataset_card import NOT_STATED
from .datasets import DatasetError, noise_features, read_dataset, read_datasets

LEVEL = 10 ** (-25 / 20)  # RMS of every clip, -25 dBFS
SHARES = {"coloured": 0.4, "harmonic": 0.2, "impacts": 0.15, "babble": 0.25}
MODULATED = 0.35


def build(clips: int = 600, seconds: float = 6.0, seed: int = 0, babble: Sequence[str | Path] = ()) -> Dataset:
    """A dataset of synthetic noises, all in the split `train`; the same arguments give the same samples.

    Args:
        clips: number of clips.
        seconds: length of each clip.
        seed: 0 or more; another seed gives other noises. A clip does not depend on the number of clips.
        babble: speech datasets whose train clips are mixed to babble; without any, there is no babble.

    Raises:
        DatasetError: the numbers are not positive, or a speech dataset is missing or has no train clips.
    """
    if clips < 1 or not 0 < seconds < 600 or seed < 0:
        raise DatasetError(
            f"`clips` must be 1 or more, `seconds` above 0 and below 600, `seed` 0 or more; got {clips}, {seconds}, "
            f"{seed}"
        )
    speech = read_datasets(babble, "train").select_columns("audio") if babble else None
    rows = [_row(index, round(seconds * SAMPLING_RATE), seed, speech) for index in range(clips)]
    features = noise_features()
    info = _origin([read_dataset(one).info for one in babble], seed)
    info.features = features
    return Dataset(pa.Table.from_pylist(rows, schema=features.arrow_schema), info=info)


def _row(index: int, samples: int, seed: int, speech: Dataset | None) -> dict[str, Any]:
    generator = np.random.default_rng([seed, index])
    category, noise = draw_noise(generator, samples, speech)
    name = f"synthetic_{seed}_{index:05d}.flac"
    return {
        "audio": {"bytes": flac(noise), "path": name},
        "category": category,
        "split": "train",
        "source_file": name,
        "duration": samples / SAMPLING_RATE,
    }


def draw_noise(generator: np.random.Generator, samples: int, speech: Dataset | None = None) -> tuple[str, np.ndarray]:
    """Draws a kind of noise and a noise of that kind.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.
        speech: dataset of the speech in babble; without it, babble is never drawn.

    Returns:
        Its category, and float32 (samples,) at -25 dBFS RMS, or less if full scale (+-1) would be exceeded.
    """
    shares = {kind: share for kind, share in SHARES.items() if kind != "babble" or speech is not None}
    chances = np.array(list(shares.values())) / sum(shares.values())
    kind = list(shares)[generator.choice(len(shares), p=chances)]
    if kind == "babble":
        noise = babble_noise(generator, samples, speech)
    else:
        noise = {"coloured": coloured_noise, "harmonic": harmonic_noise, "impacts": impact_noise}[kind](
            generator, samples
        )
    if generator.random() < MODULATED:
        kind, noise = f"{kind}, modulated", noise * slow_envelope(generator, samples)
    noise = noise * (LEVEL / np.sqrt(np.mean(noise**2)))
    return kind, (noise / max(1.0, np.abs(noise).max())).astype(np.float32)


def coloured_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Noise whose power falls with frequency as f^-a, with a between -0.3 and 2.2, and is changed by up to 12 dB at
    two to six frequencies.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.

    Returns:
        (samples,), unscaled.
    """
    size = 1 << (samples - 1).bit_length()
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLING_RATE), 30)
    spectrum = np.fft.rfft(generator.standard_normal(size)) * frequencies ** (-generator.uniform(-0.3, 2.2) / 2)
    points = np.sort(generator.uniform(np.log(50), np.log(8000), generator.integers(2, 7)))
    gains_db = np.interp(np.log(frequencies), points, generator.uniform(-12, 12, len(points)))
    return np.fft.irfft(spectrum * 10 ** (gains_db / 20), size)[:samples]


def harmonic_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """A tone of 40 to 1500 Hz with up to 20 harmonics and hiss, usually with vibrato, like engines and sirens.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.

    Returns:
        (samples,), unscaled.
    """
    time = np.arange(samples) / SAMPLING_RATE
    pitch = np.exp(generator.uniform(np.log(40), np.log(1500)))
    depth = generator.uniform(0, 0.3) * (generator.random() < 0.6)
    rate, start = generator.uniform(0.2, 6), generator.uniform(0, 2 * np.pi)
    phase = 2 * np.pi * np.cumsum(pitch * (1 + depth * np.sin(2 * np.pi * rate * time + start))) / SAMPLING_RATE
    decay, tone = generator.uniform(0.3, 1.5), np.zeros(samples)
    for harmonic in range(1, int(min(20, 7500 / (pitch * (1 + depth)))) + 1):
        tone += np.sin(harmonic * phase + generator.uniform(0, 2 * np.pi)) * harmonic**-decay
    return tone + generator.standard_normal(samples) * tone.std() * generator.uniform(0.05, 0.6)


def impact_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """One to eight decaying bursts per second at random times over a faint coloured floor.

    A burst is coloured noise, in half of the cases ringing at one frequency, that decays by 60 dB within 10 to 300 ms.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.

    Returns:
        (samples,), unscaled.
    """
    noise = coloured_noise(generator, samples)
    noise *= generator.uniform(0.003, 0.03) / noise.std()
    for start in generator.integers(samples, size=max(1, round(generator.uniform(1, 8) * samples / SAMPLING_RATE))):
        time = np.arange(min(SAMPLING_RATE // 2, samples - start)) / SAMPLING_RATE
        burst = coloured_noise(generator, SAMPLING_RATE // 2)
        burst = burst[: len(time)] / burst.std()
        if generator.random() < 0.5:
            burst = 0.3 * burst + np.sin(2 * np.pi * np.exp(generator.uniform(np.log(100), np.log(6000))) * time)
        decay = np.log(1000) / generator.uniform(0.01, 0.3)  # 1/s
        noise[start : start + len(time)] += generator.uniform(0.2, 1) * burst * np.exp(-decay * time)
    return noise


def babble_noise(generator: np.random.Generator, samples: int, speech: Dataset) -> np.ndarray:
    """A mixture of three to eight clips of speech with levels up to 6 dB apart, each repeated to the full length.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.
        speech: the speech dataset to draw clips from.

    Returns:
        (samples,), unscaled.
    """
    noise = np.zeros(samples)
    for row in generator.integers(len(speech), size=generator.integers(3, 9)):
        voice = load_audio(speech[int(row)]["audio"])
        voice = np.resize(np.roll(voice, -generator.integers(len(voice))), samples)
        level = max(np.sqrt(np.mean(voice**2, dtype=np.float64)), 1e-9)
        noise += voice / level * 10 ** (generator.uniform(-6, 0) / 20)
    return noise


def slow_envelope(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Linear interpolation between 3 to 39 random gains from 0.03 to 1.03, like passing cars.

    Args:
        generator: source of all random numbers.
        samples: length at 16 kHz.

    Returns:
        (samples,).
    """
    gains = generator.uniform(0, 1, generator.integers(3, 40)) ** 2 + 0.03
    return np.interp(np.arange(samples), np.linspace(0, samples, len(gains)), gains)


def _origin(speech: Sequence[DatasetInfo], seed: int) -> DatasetInfo:
    """How the noises were made, with the licences and citations of the speech in them."""
    licences = [info.license or NOT_STATED for info in speech] or ["CC0 1.0"]
    made = f"Noises made by `sparse-merit prepare synthetic_noise` with seed {seed}."
    descriptions = [f"Babble is made of: {info.description}" for info in speech if info.description]
    return DatasetInfo(
        description=" ".join([made, *dict.fromkeys(descriptions)]),
        license=" + ".join(dict.fromkeys(licences)),
        citation="\n\n".join(dict.fromkeys(info.citation for info in speech if info.citation)),
    )


def main(
    arguments: Sequence[str] | None = None, prog: str | None = None, publish: prepare.Publish | None = None
) -> None:
    """Builds and writes a dataset of synthetic noises, with the options of the command line.

    Args:
        arguments: command line to parse; that of the process by default.
        prog: name of the command in the help; the script's file name by default.
        publish: function that pushes the dataset to the Hub (`hub.datasets.push_dataset`), for `--push`.
    """
    parser = prepare.command_line("Synthetic noises, and babble of speech datasets, to a noise dataset.", prog, {})
    parser.add_argument("--clips", type=int, default=600, help="number of clips")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each clip in seconds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers")
    parser.add_argument("--babble", nargs="+", default=[], metavar="SPEECH_DATASET", help="datasets to mix to babble")
    prepare.run(
        parser,
        lambda options: build(options.clips, options.seconds, options.seed, options.babble),
        arguments,
        publish,
    )
