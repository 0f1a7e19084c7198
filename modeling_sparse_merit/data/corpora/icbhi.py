# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The ICBHI 2017 respiratory sound database: recordings `101_1b1_Al_sc_Meditron.wav`, whose names contain patient,
index, chest location, acquisition mode and device.

The breathing cycles of a recording are in `NAME.txt` next to it (start, end, crackles, wheezes), or in a
`metadata.csv` with the columns `recording`, `start`, `end`, `crackles` and `wheezes`. The official split and the
diagnoses are lists anywhere below the folder. The official split has patients in both of its parts, and its devices
differ between them.
"""

import csv
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Value

from ...models.sparse_merit.audio import SAMPLING_RATE, load_audio, read_audio
from .. import prepare
from ..datasets import AUDIO, DatasetError
from ..mixing import SILENT_RMS, rms
from .base import Corpus, Row

LABELS = ("normal", "crackle", "wheeze", "both")
DEVICES = ("AKGC417L", "LittC2SE", "Litt3200", "Meditron")
NAME = re.compile(r"(?P<patient>\d{3})_[^_]+_(?P<location>[^_]+)_(?P<mode>[^_]+)_(?P<device>[^_]+)")
SPLIT_LISTS = ("official_split.txt", "ICBHI_challenge_train_test.txt")
DIAGNOSIS_LISTS = ("patient_diagnosis.txt", "patient_diagnosis.csv", "ICBHI_Challenge_diagnosis.txt")
DEV_SHARE = 0.15  # of the patients in the official train part
LATE_SECONDS = 0.1  # how far a mark may lie beyond the end of its recording, where the cycle is then cut


@dataclass(frozen=True)
class Cycle:
    """A breathing cycle of a recording.

    Attributes:
        start, end: in seconds.
        crackles, wheezes: whether the cycle has any.
    """

    start: float
    end: float
    crackles: bool
    wheezes: bool

    @property
    def label(self) -> str:
        """One of `LABELS`."""
        return LABELS[self.crackles + 2 * self.wheezes]


class Icbhi(Corpus):
    """ICBHI 2017.

    Options:
        recordings: one row for each recording in place of one for each breathing cycle; only for `build`.
        dev: patients of the dev split; by default 15 % of the patients in the official train part.
        test: patients of the test split; by default the official one.
        drop_shared_patients: leave out the recordings in the official train part of patients who are also tested.
    """

    unique_names = True
    independent = "patient"
    info = DatasetInfo(
        description="ICBHI 2017: breathing cycles with crackles, wheezes, both or neither.",
        license="research use, as its makers offer it",
        citation="Rocha, B. M., Filos, D., Mendes, L., et al. (2018). A respiratory sound database for the "
        "development of automated classification. Precision Medicine Powered by pHealth and Connected Health, 33-37.",
    )

    def build(
        self,
        folder: str | Path,
        *,
        skip_bad: bool = False,
        info: DatasetInfo | None = None,
        recordings: bool = False,
        **options: Any,
    ) -> Dataset:
        """The dataset of the breathing cycles, which are stored in it, or of the recordings.

        Args:
            folder: the corpus, as it was unpacked.
            skip_bad: leave bad recordings and cycles out with a warning.
            info: metadata to store in place of that of the corpus.
            recordings: one row for each recording.
            options: options of the corpus.

        Raises:
            DatasetError: the folder, or some of its recordings or cycles are invalid.
        """
        dataset = super().build(folder, skip_bad=skip_bad, info=info, **options)
        return dataset if recordings else cut_cycles(dataset, read_cycles(prepare.corpus_folder(folder)))

    def features(self, **options: Any) -> Features:
        """The schema of the recordings; `cycle_features` is that of the cycles."""
        text = ("speaker", "patient", "recording", "device", "location", "mode", "diagnosis", "split", "source_file")
        numbers = {"duration": Value("float32"), "original_rate": Value("int32")}
        return Features({"audio": AUDIO} | {name: Value("string") for name in text} | numbers)

    def rows(  # type: ignore[override]  # its own options
        self,
        folder: Path,
        notes: Counter[str],
        dev: Sequence[str] | None = None,
        test: Sequence[str] | None = None,
        drop_shared_patients: bool = False,
    ) -> Iterator[Row]:
        cycles, rates, diagnoses = read_cycles(folder), _original_rates(folder), _diagnoses(folder)
        official = read_official_split(folder, is_needed=test is None)
        split_of = _splits(official, dev, test)
        shared = shared_patients(official) if drop_shared_patients else set()
        for path in prepare.audio_files(folder):
            file, match = path.relative_to(folder).as_posix(), NAME.fullmatch(path.stem)
            if not match:
                notes["files are not recordings of this corpus and were left out"] += 1
                continue
            split = split_of(path.stem, match["patient"])
            if match["patient"] in shared and split != "test":
                notes["recordings of patients in both parts were left out of the train part"] += 1
                continue
            problem = _problem(match, file, path.stem in cycles, split)
            if problem is not None:
                yield problem
                continue
            try:
                waveform, rate = read_audio(path)
            except (OSError, ValueError) as error:
                yield prepare.Problem("unreadable recordings", f"{file} ({error})".replace(f"{path}", "it"))
                continue
            if rms(waveform) < SILENT_RMS:
                yield prepare.Problem("silent recordings", file)
                continue
            yield from _bad_cycles(cycles[path.stem], waveform, rate, file)
            yield {
                **match.groupdict(),
                "file": file,
                "speaker": f"icbhi_{match['patient']}",
                "recording": path.stem,
                "diagnosis": diagnoses.get(match["patient"]),
                "split": split,
                "original_rate": rates.get(path.stem, rate),
            }


def _problem(match: re.Match[str], file: str, is_annotated: bool, split: str | None) -> prepare.Problem | None:
    """What is wrong with a recording before it is read."""
    if match["device"] not in DEVICES:
        return prepare.Problem(f"unknown devices (known are {', '.join(DEVICES)})", f"{file}: {match['device']!r}")
    if not is_annotated:
        return prepare.Problem("recordings without annotations, NAME.txt", file)
    if split is None:
        return prepare.Problem("recordings that the official split does not list (name patients with --test)", file)
    return None


# Cycles --------------------------------------------------------------------------------------------------------------


def cycle_features(recording_features: Features) -> Features:
    """The schema of the cycles of recordings; `start` and `end` are in seconds."""
    marks = {name: Value("bool") for name in ("crackles", "wheezes")}
    times = {name: Value("float32") for name in ("start", "end")}
    return Features({**recording_features, "label": ClassLabel(names=list(LABELS)), **marks, **times})


def cut_cycles(recordings: Dataset, cycles: dict[str, list[Cycle]]) -> Dataset:
    """Cuts recordings into cycles, which are stored as 24-bit FLAC at 16 kHz.

    Args:
        recordings: dataset of recordings, as `Icbhi.build` makes it.
        cycles: cycles of each recording; those that are invalid are left out.
    """
    features = cycle_features(recordings.features)
    parts = []
    for row in recordings:
        waveform = load_audio(row["audio"])
        valid = [cycle for cycle in cycles[row["recording"]] if _fault(cycle, waveform, SAMPLING_RATE) is None]
        rows = [_cycle_row(row, number, cycle, waveform) for number, cycle in enumerate(valid)]
        parts.append(pa.Table.from_pylist(rows, schema=features.arrow_schema))
    info = recordings.info.copy()
    info.features = features
    return Dataset(pa.concat_tables(parts), info=info)


def _cycle_row(recording: dict[str, Any], number: int, cycle: Cycle, waveform: np.ndarray) -> dict[str, Any]:
    samples, file = _samples(cycle, waveform, SAMPLING_RATE), io.BytesIO()
    soundfile.write(file, samples, SAMPLING_RATE, format="FLAC", subtype="PCM_24")
    return {
        **recording,
        "audio": {"bytes": file.getvalue(), "path": f"{recording['recording']}_{number:02}.flac"},
        "duration": len(samples) / SAMPLING_RATE,
        "label": LABELS.index(cycle.label),
        "crackles": cycle.crackles,
        "wheezes": cycle.wheezes,
        "start": cycle.start,
        "end": cycle.end,
    }


def _samples(cycle: Cycle, waveform: np.ndarray, rate: int) -> np.ndarray:
    return waveform[round(cycle.start * rate) : round(cycle.end * rate)]


def _bad_cycles(cycles: Sequence[Cycle], waveform: np.ndarray, rate: int, file: str) -> Iterator[prepare.Problem]:
    for cycle in cycles:
        if fault := _fault(cycle, waveform, rate):
            yield prepare.Problem(fault, f"{file}: {cycle.start:g} to {cycle.end:g} s")


def _fault(cycle: Cycle, waveform: np.ndarray, rate: int) -> str | None:
    """What is wrong with a cycle, None for a valid one."""
    if not 0 <= cycle.start < cycle.end:  # also of NaN
        return "cycles that do not end after their start"
    if cycle.end > len(waveform) / rate + LATE_SECONDS:
        return "cycles that end beyond their recording"
    samples = _samples(cycle, waveform, rate)
    return None if len(samples) and rms(samples) >= SILENT_RMS else "silent cycles"


def read_cycles(folder: Path) -> dict[str, list[Cycle]]:
    """The cycles of each recording by its name, in order.

    Args:
        folder: the corpus, as it was unpacked.

    Raises:
        DatasetError: a line of an annotation is not start, end, crackles and wheezes.
    """
    cycles = defaultdict(list)
    for path in sorted(folder.rglob("*.txt")):
        if NAME.fullmatch(path.stem):
            lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
            cycles[path.stem] = [_cycle(line, path) for line in lines if line]
    for path, line in _listed(folder, "recording"):
        marks = [line.get(name) or "" for name in ("start", "end", "crackles", "wheezes")]
        cycles[line["recording"]].append(_cycle(marks, path))
    return cycles


def _cycle(marks: Sequence[str], path: Path) -> Cycle:
    try:
        start, end, crackles, wheezes = map(float, marks)
    except ValueError as error:
        raise DatasetError(
            f"{path} has the line {' '.join(marks)!r}; expected four numbers: start and end in seconds, crackles and "
            "wheezes (0 or 1)"
        ) from error
    return Cycle(start, end, bool(crackles), bool(wheezes))


# Lists ---------------------------------------------------------------------------------------------------------------


def read_official_split(folder: Path, is_needed: bool = True) -> dict[str, str]:
    """The official part of each recording, train or test; empty without a list.

    Args:
        folder: the corpus, as it was unpacked.
        is_needed: whether the list must exist.

    Raises:
        DatasetError: the list is missing.
    """
    path = _first_below(folder, SPLIT_LISTS)
    if path is None and is_needed:
        raise DatasetError(
            f"{folder} has no {' or '.join(SPLIT_LISTS)}; add the official split, or name patients with --test"
        )
    return {} if path is None else dict(_pairs(path))


def shared_patients(official: dict[str, str]) -> set[str]:
    """The patients who are in both parts of the official split.

    Args:
        official: from `read_official_split`.
    """
    parts = defaultdict(set)
    for name, part in official.items():
        parts[name.partition("_")[0]].add(part)
    return {patient for patient, own in parts.items() if len(own) > 1}


def default_dev_patients(official: dict[str, str]) -> list[str]:
    """15 % of the patients of the official train part who are not tested, in the order of the SHA-256 of their number.

    Args:
        official: from `read_official_split`.
    """
    trained = {name.partition("_")[0] for name, part in official.items() if part == "train"}
    patients = trained - shared_patients(official)
    ordered = sorted(patients, key=lambda patient: hashlib.sha256(patient.encode()).hexdigest())
    return ordered[: round(DEV_SHARE * len(trained))]


def _splits(
    official: dict[str, str], dev: Sequence[str] | None, test: Sequence[str] | None
) -> Callable[[str, str], str | None]:
    """A function of recording and patient that gives the split, None where it is unknown."""
    if test is not None:
        splits = prepare.SpeakerSplits(dev or (), test)
        return lambda name, patient: splits.split_of(patient)
    held_out = set(default_dev_patients(official) if dev is None else dev)

    def split_of(name: str, patient: str) -> str | None:
        part = official.get(name)
        return "dev" if part == "train" and patient in held_out else part

    return split_of


def _diagnoses(folder: Path) -> dict[str, str]:
    path = _first_below(folder, DIAGNOSIS_LISTS)
    return {} if path is None else dict(_pairs(path))


def _original_rates(folder: Path) -> dict[str, int]:
    """Sampling rates before a conversion, where a `metadata.csv` states them."""
    lines = (line for _, line in _listed(folder, "original_sample_rate"))
    return {Path(line["file_name"]).stem: int(line["original_sample_rate"]) for line in lines}


def _listed(folder: Path, column: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """The lines of each `metadata.csv` that has a column, with its path."""
    for path in sorted(folder.rglob("metadata.csv")):
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if column in (reader.fieldnames or ()):
                yield from ((path, line) for line in reader)


def _first_below(folder: Path, names: Sequence[str]) -> Path | None:
    return next((path for name in names for path in sorted(folder.rglob(name))), None)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """The first two values of each line, which are separated by a tab or a comma."""
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if line.strip():
            first, second, *_ = re.split(r"[\t,]\s*", line.strip())
            yield first, second


CORPUS = Icbhi()
