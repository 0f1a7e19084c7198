# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Noisy WAV files with their clean references, from files of speech and noise."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features
from tqdm.auto import tqdm

from ..data.datasets import AUDIO
from ..data.mixing import MixingRecipe, audible_segment, transmitted
from ..data.transmission import checked_transmissions
from ..files import check_replaceable, one_line, replacing_folder
from ..inference.files import ENHANCED_SUFFIX, Recording, find_recordings
from ..models.sparse_merit.audio import SAMPLING_RATE, load_audio, write_audio
from .conditions import find_segment

LIST = "mixtures.csv"
COLUMNS = ("noisy", "clean", "speech", "noise", "noise_start_s", "snr_db", "transmission", "seed")


@dataclass(frozen=True)
class MixedFiles:
    """What `mix_files` wrote.

    Args:
        mixtures: number of noisy files.
        failed: `{speech file: why it was not mixed}`.
    """

    mixtures: int
    failed: dict[str, str]


def mix_files(
    speech: str | Path,
    noise: str | Path,
    output: str | Path,
    snr_db: Sequence[float] = (-5, 0, 5),
    transmission: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> MixedFiles:
    """Mixes every recording of speech with a randomly drawn segment of a randomly drawn noise, at each
    signal-to-noise ratio.

    Writes `noisy/NAME.SNRdB.wav` and, under the same name, the reference `clean/NAME.SNRdB.wav` (16 kHz, mono), and
    `mixtures.csv` with a line for each of them. All ratios of a recording use the same segment. The folder is written
    atomically. Mixing is that of the training, `MixingRecipe`; the same files and seed give the same
    samples.

    Args:
        speech: a file, a folder or a glob; subfolders are kept.
        noise: a file, a folder or a glob.
        output: the folder to write.
        snr_db: signal-to-noise ratios over the whole recording, in dB, before the transmission.
        transmission: name in `data.transmission.TRANSMISSIONS`, which is applied to the mixture; the reference then
            has the same band.
        seed: seed of the random numbers.
        overwrite: replace a folder that this function wrote.

    Raises:
        FileNotFoundError: there is no recording of speech or of noise.
        FileExistsError: the folder exists without `overwrite`, or was not written by this function.
        ValueError: the transmission is unknown, or no recording could be mixed.
    """
    checked_transmissions([] if transmission is None else [transmission], "transmission")
    output = Path(output)
    check_replaceable(output, overwrite, lambda folder: None if (folder / LIST).is_file() else f"it holds no {LIST}")
    noises = _recordings(noise, output)
    mixer = _Mixer(noises, snr_db, transmission, seed)
    failed: dict[str, str] = {}
    count = 0
    with replacing_folder(output) as folder, open(folder / LIST, "w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, COLUMNS)
        lines.writeheader()
        recordings = _recordings(speech, folder)
        for number, recording in enumerate(tqdm(recordings, "mixing", unit="file", disable=None)):
            try:
                for line in mixer.write(recording, number, folder):
                    lines.writerow(line)
                    count += 1
            except ValueError as error:
                failed[str(recording.path)] = one_line(error)
        if not count:
            raise ValueError(f"No recording could be mixed; the first failure: {next(iter(failed.values()))}")
    return MixedFiles(count, failed)


class _Mixer:
    """Mixes recordings with the noises of files."""

    def __init__(self, noises: list[Recording], snr_db: Sequence[float], transmission: str | None, seed: int) -> None:
        self.noises, self.snr_db, self.transmission, self.seed = noises, snr_db, transmission, seed
        rows = [{"audio": {"bytes": None, "path": str(recording.path)}} for recording in noises]
        dataset = Dataset(pa.Table.from_pylist(rows, schema=Features({"audio": AUDIO}).arrow_schema))
        self.recipe = MixingRecipe(dataset, snr_db=0.0, level_db=None, seed=seed)

    def write(self, recording: Recording, number: int, folder: Path) -> Iterator[dict[str, Any]]:
        """Writes the mixtures of a recording; yields their lines."""
        speech = load_audio(recording.path)
        drawn = self.recipe.draw(number)
        assert drawn.noise_index is not None  # every example has noise
        for snr_db in self.snr_db:
            mixture = self.recipe.apply(speech, replace(drawn, snr_db=snr_db), str(recording.path))
            if self.transmission is not None:
                mixture = transmitted(mixture, self.transmission)
            stem = recording.target.relative_to(folder).as_posix().removesuffix(ENHANCED_SUFFIX)
            names = {kind: f"{kind}/{stem}.{snr_db:g}dB.wav" for kind in ("noisy", "clean")}
            for name, waveform in zip(names.values(), (mixture.noisy, mixture.clean), strict=True):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_audio(folder / name, waveform, SAMPLING_RATE)
            yield names | {
                "speech": str(recording.path),
                "noise": str(self.noises[drawn.noise_index].path),
                "noise_start_s": f"{self._start(drawn.noise_index, drawn.noise_offset, len(speech)):.4f}",
                "snr_db": f"{snr_db:g}",
                "transmission": self.transmission,
                "seed": self.seed,
            }

    def _start(self, index: int, offset: float, length: int) -> float:
        """Where the segment of a noise starts, in seconds."""
        noise = self.recipe.noise[index]
        segment = audible_segment(noise, length, offset)
        assert segment is not None  # else there is no mixture
        return find_segment(noise, segment, offset) / SAMPLING_RATE


def _recordings(argument: str | Path, folder: Path) -> list[Recording]:
    """The recordings of a file, folder or glob, with targets below a folder."""
    recordings, _ = find_recordings([str(argument)], folder)
    if all(recording.error for recording in recordings):
        raise FileNotFoundError(f"No recording found in {argument}: give an audio file, a folder or a glob.")
    return recordings
