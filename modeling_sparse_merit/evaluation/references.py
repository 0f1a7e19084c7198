# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""External reference systems with the interface of a checkpoint: probes of emotions and of ratings, enhancers of other
packages, and files written by any other system."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.datasets import read_dataset
from ..files import sha256_of_samples
from ..models.sparse_merit.audio import load_audio
from ..models.sparse_merit.decoding import audio_suffixes
from ..models.sparse_merit.tasks import ENHANCEMENT
from .enhancers import ENHANCERS
from .predictions import Prediction, Reference
from .probes import EgemapsSvm, EncoderProbe
from .rating_probe import EgemapsRidge


class ProcessedFiles:
    """Outputs of another system for the recordings of a frozen test set, one file per recording, for enhancement.

    A recording is identified by its samples in the test set. Its file has the name given by the test set, with any
    suffix: `NAME.flac` may have become `NAME.wav`.

    Args:
        folder: the folder of the files, at any sampling rate.
        test_set: the frozen test set that the other system processed; the path in its column `audio` names the file.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        DatasetError: the test set is missing.
        ValueError: a name points outside the folder.
    """

    name = "processed"
    tasks = (ENHANCEMENT,)

    def __init__(self, folder: str, test_set: str):
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"`folder`: {folder} is not a folder; expected a folder with the outputs of another system."
            )
        recordings = [row["audio"] for row in read_dataset(test_set).select_columns("audio")]
        self.files = {sha256_of_samples(load_audio(audio)): self._find(audio["path"]) for audio in recordings}

    def describe(self) -> dict:
        """What identifies the system in a report."""
        digest = hashlib.sha256()
        for samples_sha256, path in sorted(self.files.items()):
            digest.update(samples_sha256.encode() + path.read_bytes())
        name = f"the files in {self.folder.name}"
        return {"name": name, "reference": self.name, "files": len(self.files), "sha256": digest.hexdigest()}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz.

        Raises:
            ValueError: a recording is not in the test set, or its file has another length.
        """
        return [Prediction(self._read(recording), None) for recording in recordings]

    def _find(self, name: str | None) -> Path:
        path = (self.folder / (name or "")).resolve()
        if not name or path == self.folder or not path.is_relative_to(self.folder):
            raise ValueError(
                f"A recording of the test set has the name {name!r}; expected the name of a file inside {self.folder}."
            )
        # not only with_suffix: a file with the given suffix takes precedence
        candidates = [path, *(path.with_suffix(suffix) for suffix in audio_suffixes())]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None or not file.resolve().is_relative_to(self.folder):
            raise FileNotFoundError(
                f"{self.folder} has no file {path.name}, nor one of that name with another of the suffixes "
                f"{' '.join(audio_suffixes())}. Process every recording of the test set first."
            )
        return file

    def _read(self, recording: np.ndarray) -> np.ndarray:
        path = self.files.get(sha256_of_samples(recording))
        if path is None:
            raise ValueError(
                f"The files in {self.folder} belong to another test set, without a recording of this one. Evaluate "
                "the test set that was processed."
            )
        processed = load_audio(path)
        if processed.shape != recording.shape:
            raise ValueError(
                f"{path} has {len(processed)} samples at 16 kHz, but its recording has {len(recording)}. "
                "Cut or pad it to the same length, aligned in time."
            )
        return processed


REFERENCES: dict[str, Callable[..., Reference]] = {
    EgemapsSvm.name: EgemapsSvm,
    EncoderProbe.name: EncoderProbe,
    EgemapsRidge.name: EgemapsRidge,
    ProcessedFiles.name: ProcessedFiles,
    **ENHANCERS,
}


def build_reference(name: str, options: Mapping[str, Any], labels: Sequence[str]) -> Reference:
    """A reference by its name.

    Args:
        name: one of `REFERENCES`.
        options: the arguments of the reference's class, without `labels`.
        labels: emotion classes, in the order of the probabilities.

    Raises:
        ValueError: no reference has this name, or an option is unknown or missing.
        ImportError: a package is not installed; the message says how to install it.
    """
    if name not in REFERENCES:
        raise ValueError(f"There is no reference {name!r}; the references are {', '.join(REFERENCES)}.")
    parameters = dict(inspect.signature(REFERENCES[name]).parameters)
    given = {"labels": labels} if parameters.pop("labels", None) else {}
    unknown = sorted(set(options) - set(parameters), key=str)
    missing = [key for key, option in parameters.items() if option.default is option.empty and key not in options]
    if unknown or missing:
        raise ValueError(
            f"The options of the reference {name!r} are {list(parameters)}; got the unknown options {unknown}, and "
            f"the options {missing} are missing."
        )
    return REFERENCES[name](**given, **options)
