# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Outside references that answer like a checkpoint, so that they stand in the same datasets: eGeMAPS with an SVM for
emotion; spectral gating, and the files that any other system wrote, for enhancement. The first two need the extra
`benchmark`; openSMILE, which computes eGeMAPS, is licensed for research and other non-commercial use alone."""

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from datasets import Dataset
from huggingface_hub import cached_assets_path
from scipy.special import softmax
from tqdm.auto import tqdm

from ..data.datasets import read_dataset, read_datasets
from ..data.labels import UNLABELLED, class_indices, class_weights
from ..data.mixing import SAMPLING_RATE, MixingRecipe
from ..files import replacing, sha256_of_samples
from ..metrics import macro_f1
from ..models.sparse_merit.audio import load_audio
from ..models.sparse_merit.decoding import audio_suffixes
from .predictions import Prediction

FUNCTIONALS = 88  # of eGeMAPSv02
OPENSMILE_LICENCE = (
    "audEERING Research License Agreement: research and non-commercial use alone; neither openSMILE nor features or "
    "models made with it may be part of a product"
)
# Around the values that scikit-learn and the field start from: C = 1 and gamma = 1 / features.
COSTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
WIDTHS = tuple(scale / FUNCTIONALS for scale in (0.1, 0.3, 1.0, 3.0, 10.0))
GATE_SAMPLES = 1024  # the window of noisereduce


class EgemapsSvm:
    """eGeMAPS functionals (Eyben et al., IEEE TAC 2016), standardised, and an SVM with an RBF kernel: emotion alone.

    It learns from the train split, as a model does, in many conditions: every labelled clip as it is, and `copies`
    times in noise at the recording's own level. C and gamma are those with the best macro-F1 on the dev split, mixed
    alike with the dev split's noise. Functionals are cached by the content of the recording, so that nothing is
    computed twice.

    openSMILE's licence restricts commercial use, also of features and of models made with it: `OPENSMILE_LICENCE`.

    Args:
        labels: emotion classes, in the order of the probabilities.
        speech: speech datasets with a train and a dev split.
        noise: noise datasets with a train and a dev split.
        snr_db: range of the signal-to-noise ratio in dB.
        copies: noisy copies of each clip.
        seed: of the mixtures.
        workers: processes that compute functionals; None is one for each CPU core.
        cache: folder of the functionals; None is one in the cache of `huggingface_hub`.

    Raises:
        ImportError: opensmile or scikit-learn is not installed.
        DatasetError: a dataset or split is missing, or a class has no training clip.
    """

    name = "egemaps_svm"

    def __init__(
        self,
        labels: Sequence[str],
        speech: str | Sequence[str],
        noise: str | Sequence[str],
        snr_db: Sequence[float] = (-5.0, 15.0),
        copies: int = 2,
        seed: int = 0,
        workers: int | None = None,
        cache: str | None = None,
    ):
        _import_extra("opensmile")
        self.labels, self.workers = list(labels), workers
        self.cache = cache or cached_assets_path("modeling-sparse-merit", "egemaps", version("opensmile"))
        self.settings = {"snr_db": list(snr_db), "copies": copies, "seed": seed}
        speech, noise = ([tables] if isinstance(tables, str) else list(tables) for tables in (speech, noise))
        train, dev = (self._examples(speech, noise, split) for split in ("train", "dev"))
        self.training = {"clips": len(train[1]), "sha256": train[2], "dev_clips": len(dev[1]), "dev_sha256": dev[2]}
        self.choice, self.classifier = choose_classifier(*train[:2], *dev[:2], self.labels)

    def describe(self) -> dict:
        """What identifies the system in a report."""
        packages = {name: version(name) for name in ("opensmile", "scikit-learn")}
        name = f"eGeMAPSv02 of openSMILE {packages['opensmile']} (no commercial use) and an SVM"
        identity = {"name": name, "reference": self.name, "licence": OPENSMILE_LICENCE, "versions": packages}
        return {**identity, "training": {**self.training, **self.settings}, **self.choice}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Answers for recordings of shape (samples,) at 16 kHz. The probabilities are the softmax of the SVM's
        decision values: the largest is its prediction, but they are not calibrated."""
        functionals = np.stack([row for _, row in self._functionals(recordings)])  # (clips, 88)
        decisions = self.classifier.decision_function(functionals)  # (clips, classes), (clips,) of two classes
        if decisions.ndim == 1:
            decisions = np.stack([-decisions, decisions], axis=1)  # (clips, 2)
        return [Prediction(None, probabilities) for probabilities in softmax(decisions, axis=1)]

    def _examples(self, speech: list[str], noise: list[str], split: str) -> tuple[np.ndarray, np.ndarray, str]:
        """Functionals (examples, 88) and classes (examples,) of a split in all conditions, and the SHA-256 of both."""
        table = read_datasets(speech, split)
        classes = np.array(class_indices(table, self.labels))
        table, classes = table.select(np.flatnonzero(classes != UNLABELLED)), classes[classes != UNLABELLED]
        recipe = MixingRecipe(
            read_datasets(noise, split),
            snr_db=tuple(self.settings["snr_db"]),
            level_db=None,
            seed=self.settings["seed"],
        )
        recordings = in_conditions(table, recipe, self.settings["copies"])
        classes = np.repeat(classes, 1 + self.settings["copies"])  # a clip's conditions follow one another
        found = list(
            tqdm(self._functionals(recordings), f"eGeMAPS of {split}", len(classes), unit="clip", disable=None)
        )
        lines = [f"{digest} {self.labels[index]}\n" for (digest, _), index in zip(found, classes, strict=True)]
        sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
        return np.stack([row for _, row in found]), classes, sha256

    def _functionals(self, recordings: Iterable[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """SHA-256 and functionals (88,) of each recording, in order."""
        from joblib import Parallel, delayed

        tasks = (delayed(cached_functionals)(recording, str(self.cache)) for recording in recordings)
        return Parallel(n_jobs=self.workers or -1, return_as="generator")(tasks)


class NoiseReduce:
    """Spectral gating by `noisereduce` (Sainburg, doi 10.5281/zenodo.3243139) as it comes: enhancement alone. A
    recording that is silent, or shorter than the gate's window of 64 ms, comes back as it is.

    Args:
        labels: not used; every reference takes them.
        stationary: one threshold for the whole recording; False lets it follow the noise.

    Raises:
        ImportError: noisereduce is not installed.
    """

    name = "noisereduce"

    def __init__(self, labels: Sequence[str], stationary: bool = False):
        self.library, self.stationary = _import_extra("noisereduce"), stationary

    def describe(self) -> dict:
        """What identifies the system in a report."""
        packages = {"noisereduce": version("noisereduce")}
        name = f"noisereduce {packages['noisereduce']}, {'stationary' if self.stationary else 'non-stationary'}"
        return {"name": name, "reference": self.name, "versions": packages, "stationary": self.stationary}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Answers for recordings of shape (samples,) at 16 kHz.

        Raises:
            ValueError: the output is not finite.
        """
        return [Prediction(self._gate(recording), None) for recording in recordings]

    def _gate(self, recording: np.ndarray) -> np.ndarray:
        if len(recording) < GATE_SAMPLES or not np.any(recording):
            return recording.copy()
        # in one piece, as the noise is estimated for each
        gated = self.library.reduce_noise(
            y=recording, sr=SAMPLING_RATE, stationary=self.stationary, chunk_size=len(recording)
        )
        if not np.isfinite(gated).all():
            raise ValueError("The output of noisereduce holds NaN or Inf. Leave this reference out.")
        return gated.astype(np.float32)


class ProcessedFiles:
    """What another system wrote of the very recordings of a frozen test set, a file for each: enhancement alone.

    A recording is recognised by its samples in the test set, and its file has the name that the test set gives it,
    whatever the ending: `NAME.flac` may have become `NAME.wav`.

    Args:
        labels: not used; every reference takes them.
        folder: the folder of the files, at any sampling rate.
        test_set: the dataset that the other system was given; the path in its column `audio` names the file.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing.
        DatasetError: there is no such table.
        ValueError: a name leads out of the folder.
    """

    name = "processed"

    def __init__(self, labels: Sequence[str], folder: str, test_set: str):
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"`folder`: {folder} is no folder; expected the files of another system in it.")
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
        """Answers for recordings of shape (samples,) at 16 kHz.

        Raises:
            ValueError: a recording is not in the test set, or its file is of another length.
        """
        return [Prediction(self._read(recording), None) for recording in recordings]

    def _find(self, name: str | None) -> Path:
        path = (self.folder / (name or "")).resolve()
        if not name or path == self.folder or not path.is_relative_to(self.folder):
            raise ValueError(
                f"The test set calls a recording {name!r}; expected the name of a file inside {self.folder}."
            )
        # not with_suffix alone: the given ending wins where there are two
        candidates = [path, *(path.with_suffix(suffix) for suffix in audio_suffixes())]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None or not found.resolve().is_relative_to(self.folder):
            raise FileNotFoundError(
                f"{self.folder} has no file {path.name}, nor one of that name with another of the endings "
                f"{' '.join(audio_suffixes())}. Process every recording of the test set first."
            )
        return found

    def _read(self, recording: np.ndarray) -> np.ndarray:
        path = self.files.get(sha256_of_samples(recording))
        if path is None:
            raise ValueError(f"A recording is not in the test set that {self.folder} was made of. Name the right one.")
        processed = load_audio(path)
        if processed.shape != recording.shape:
            raise ValueError(
                f"{path} has {len(processed)} samples at 16 kHz, the recording it was made of has {len(recording)}. "
                "Cut or pad it to the same length, aligned in time."
            )
        return processed


REFERENCES: dict[str, Callable] = {kind.name: kind for kind in (EgemapsSvm, NoiseReduce, ProcessedFiles)}


def build_reference(
    name: str, options: Mapping[str, Any], labels: Sequence[str]
) -> EgemapsSvm | NoiseReduce | ProcessedFiles:
    """A reference by its name: `egemaps_svm`, `noisereduce` or `processed`.

    Args:
        name: one of `REFERENCES`.
        options: the arguments of the reference's class, without `labels`.
        labels: emotion classes, in the order of the probabilities.

    Returns:
        an object with `name`, `describe()` (plain JSON) and `answer(recordings)`.

    Raises:
        ValueError: no reference has this name, or an option is unknown or missing.
        ImportError: a package of the extra `benchmark` is not installed.
    """
    if name not in REFERENCES:
        raise ValueError(f"There is no reference {name!r}; the references are {', '.join(REFERENCES)}.")
    known = {key: option for key, option in inspect.signature(REFERENCES[name]).parameters.items() if key != "labels"}
    unknown = sorted(set(options) - set(known), key=str)
    missing = [key for key, option in known.items() if option.default is option.empty and key not in options]
    if unknown or missing:
        raise ValueError(
            f"The reference {name!r} got the unknown options {unknown} and lacks {missing}; it takes {list(known)}."
        )
    return REFERENCES[name](labels=labels, **options)


def in_conditions(table: Dataset, recipe: MixingRecipe, copies: int) -> Iterator[np.ndarray]:
    """Every clip of a dataset as it is, then `copies` times mixed by the recipe; each (samples,) at 16 kHz."""
    for row, audio in enumerate(table["audio"]):
        speech = load_audio(audio)
        yield speech
        for copy in range(copies):
            yield recipe.apply(speech, recipe.draw(row, epoch=copy), str(audio["path"] or f"clip {row}")).noisy


def choose_classifier(
    train: np.ndarray, train_classes: np.ndarray, dev: np.ndarray, dev_classes: np.ndarray, labels: list[str]
) -> tuple[dict[str, float], Any]:
    """Fits an SVM for each C and gamma and keeps the one with the best macro-F1 on the dev split, the first of equals.

    Args:
        train, dev: functionals, (examples, 88); a value that openSMILE left undefined (NaN) counts as the mean.
        train_classes, dev_classes: numbers of the classes, (examples,).
        labels: the classes.

    Returns:
        `{"C", "gamma", "dev_macro_f1"}`, and the fitted scikit-learn pipeline.

    Raises:
        DatasetError: a class has no training clip.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    weights = dict(enumerate(class_weights(train_classes.tolist(), labels)))  # n / (classes * n_class)
    best: tuple[dict[str, float], Any] = ({"dev_macro_f1": -1.0}, None)
    for cost in COSTS:
        for width in WIDTHS:
            svm = SVC(C=cost, gamma=width, class_weight=weights, break_ties=True)
            classifier = make_pipeline(SimpleImputer(), StandardScaler(), svm).fit(train, train_classes)
            score = macro_f1(dev_classes.tolist(), classifier.predict(dev).tolist(), range(len(labels)))
            if score > best[0]["dev_macro_f1"]:
                best = {"C": cost, "gamma": width, "dev_macro_f1": score}, classifier
    return best


def cached_functionals(recording: np.ndarray, cache: str) -> tuple[str, np.ndarray]:
    """SHA-256 of a recording (samples,) at 16 kHz, and its eGeMAPS functionals, float32 (88,), from the folder `cache`
    where they were computed before. A function of the module, so that worker processes can receive it."""
    sha256 = sha256_of_samples(recording)
    path = Path(cache) / sha256[:2] / f"{sha256}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            np.save(temporary, egemaps(recording))
    return sha256, np.load(path)


def egemaps(recording: np.ndarray) -> np.ndarray:
    """The eGeMAPSv02 functionals of a recording (samples,) at 16 kHz: float32 (88,), NaN below 60 ms."""
    # openSMILE's 16-bit samples wrap round at +1
    samples = np.clip(recording, -1, 1 - 2**-15)
    return _extractor().process_signal(samples, SAMPLING_RATE).to_numpy()[0]


@lru_cache(maxsize=1)
def _extractor() -> Any:
    opensmile = _import_extra("opensmile")
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)


def _import_extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        licence = f" Its licence: {OPENSMILE_LICENCE}." if name == "opensmile" else ""
        raise ImportError(
            f'This reference needs the package `{name}`: pip install "modeling-sparse-merit[benchmark]".{licence}'
        ) from error
