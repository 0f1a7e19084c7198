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

from ..models.sparse_merit.audio import SAMPLING_RATE
from .acoustic_features import flac
from .dataset_card import NOT_STATED
from .datasets import DatasetError, noise_features, read_dataset, read_datasets
from .noises import babble_noise, coloured_noise, harmonic_noise, impact_noise, slow_envelope

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
    if kind == "babble" and speech is not None:
        noise = babble_noise(generator, samples, speech)
    else:
        noise = {"coloured": coloured_noise, "harmonic": harmonic_noise, "impacts": impact_noise}[kind](
            generator, samples
        )
    if generator.random() < MODULATED:
        kind, noise = f"{kind}, modulated", noise * slow_envelope(generator, samples)
    noise = noise * (LEVEL / np.sqrt(np.mean(noise**2)))
    return kind, (noise / max(1.0, np.abs(noise).max())).astype(np.float32)


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
