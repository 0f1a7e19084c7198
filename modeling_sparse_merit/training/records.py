# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What a training run records next to its best model, for the model card: its settings, and its data."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import yaml
from datasets import Dataset
from transformers.utils import cached_file

from ..data.dataset_card import values
from ..data.datasets import read_dataset
from ..hub.adapter_card import is_public, licence_of
from ..hub.model_card import read_training_data
from ..models.sparse_merit.configuration_speech_text import SPEECH, TEXT
from ..models.sparse_merit.sources import locate, portable_name
from ..models.sparse_merit.tasks import RegressionTask, Task
from .settings import TrainingSettings

if TYPE_CHECKING:
    from .conversation import ConversationSettings
    from .speech_text import SpeechTextSettings


class RecordedSettings(Protocol):
    """Settings of a run, a dataclass; `labels` and `REQUIRED`, those without a valid default, are optional."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class SoundSettings(RecordedSettings, Protocol):
    """Settings of a training on sounds that are not speech, with noise or without."""

    data: list[str]
    noise: list[str]


STARTS = ("model", "encoder", "wavlm", "speech_model", "text_model")
NAMES = ("wavlm", "text_model")
"""Those of `STARTS` that are not models of this package."""


def write_settings(folder: Path, settings: RecordedSettings) -> None:
    """
    Writes `training.yaml`, the settings that differ from the defaults.

    Args:
        folder: Folder of the model.
        settings: Settings of the run.
    """
    _write(folder / "training.yaml", recorded(settings))


def write_training_data(folder: Path, data: dict[str, Any]) -> None:
    """
    Writes `training_data.yaml`.

    Args:
        folder: Folder of the model.
        data: As [`training_data`], [`speech_text_data`] or [`conversation_data`] returns it.
    """
    _write(folder / "training_data.yaml", data)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def recorded(settings: Any) -> dict[str, Any]:
    """The settings of a run that differ from the defaults, without paths of this machine."""
    starts = {name: _start(settings, name) for name in STARTS if getattr(settings, name, None)}
    required = {name: getattr(settings, name) for name in getattr(settings, "REQUIRED", ())}
    defaults = asdict(type(settings)(**{name: getattr(settings, name) for name in starts}, **required))
    changed = {name: value for name, value in asdict(settings).items() if value != defaults[name]}
    labels = {"labels": settings.labels} if hasattr(settings, "labels") else {}
    record = {**starts, **required, **labels, **changed}
    for name in ("output_dir", "resume", "dataloader_num_workers", "feature_cache", "embedding_cache", "cleaned_by"):
        record.pop(name, None)
    for name in ("speech", "unlabelled", "noise", "rirs", "data"):
        if name in record:
            record[name] = [_plain_name(path) for path in record[name]]
    if "sampling_weights" in record:  # of datasets and of labels
        record["sampling_weights"] = {_plain_name(name): weight for name, weight in record["sampling_weights"].items()}
    if "teacher" in record:
        record["teacher"] = _plain_name(portable_name(locate(record["teacher"])))
    return {name: dict(value) if isinstance(value, dict) else value for name, value in record.items()}


def _start(settings: Any, name: str) -> str:
    """The name of the checkpoint that a run starts from."""
    given = getattr(settings, name)
    return _plain_name(given if name in NAMES else portable_name(locate(given)))


def _plain_name(path: str) -> str:
    """A path that exists on this machine without its folders; any other name as it is."""
    return Path(path).name if Path(path).exists() else path


def training_data(settings: TrainingSettings, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """
    The content of `training_data.yaml`: the datasets of a run with their licences, and the checkpoint that was
    fine-tuned, whose licence also applies.

    Args:
        settings: Settings of the run. Of streamed speech, only the name is known.
        tasks: The tasks that are trained, by name.

    Raises:
        DatasetError: A dataset is missing.
    """
    data: dict[str, Any] = {}
    if settings.model:
        source = locate(settings.model)
        base = portable_name(source)
        name = base if is_public(base) else Path(base).name
        licence = licence_of(source)
        data |= {"license": licence} if licence else {}
        data["notes"] = f"Fine-tuned from {name}, whose training data its own card names."
    uses = (("speech", settings.speech), ("noise", settings.noise), ("room impulse responses", settings.rirs))
    data["corpora"] = [
        _corpus(path, use, tasks if use == "speech" else {}, is_streamed=settings.streaming and use == "speech")
        for use, paths in uses
        for path in paths
    ]
    return data


def speech_text_data(settings: "SpeechTextSettings", tasks: Mapping[str, Task]) -> dict[str, Any]:
    """
    The content of `training_data.yaml` of a model of speech and text: its encoders and its datasets, with their
    licences.

    Args:
        settings: Settings of the run.
        tasks: The tasks that are trained, by name.

    Raises:
        DatasetError: A dataset is missing.
    """
    encoders = _encoders(settings)
    return {
        "encoders": encoders,
        "corpora": [_corpus(path, " and ".join(encoders), tasks) for path in settings.data],
    }


def sound_data(settings: SoundSettings) -> dict[str, Any]:
    """
    The content of `training_data.yaml` of a training on sounds: its datasets with their licences.

    Raises:
        DatasetError: A dataset is missing.
    """
    uses = (("sounds", settings.data), ("noise", settings.noise))
    return {"corpora": [_corpus(path, use, {}) for use, paths in uses for path in paths]}


def conversation_data(settings: "ConversationSettings") -> dict[str, Any]:
    """
    The content of `training_data.yaml` of a conversation model: the encoders of its embeddings and its datasets, with
    their licences.

    Args:
        settings: Settings of the run.

    Raises:
        DatasetError: A dataset is missing.
    """
    return {
        "encoders": _encoders(settings),
        "corpora": [_corpus(path, "conversations", {}) for path in settings.data],
    }


def _encoders(settings: "SpeechTextSettings | ConversationSettings") -> dict[str, dict[str, str]]:
    models = {SPEECH: settings.speech_model, TEXT: settings.text_model}
    return {modality: _encoder(model, modality) for modality, model in models.items() if model}


def _encoder(model: str, modality: str) -> dict[str, str]:
    """Name, licence and source of an encoder: those that the model of an earlier stage records, or its own."""
    source = locate(model) if modality == SPEECH else model
    earlier = read_training_data(Path(source) / "training_data.yaml").get("encoders") or {}
    if modality in earlier:
        return earlier[modality]
    name = portable_name(source)
    if Path(source).exists():
        return {"name": _plain_name(name), "license": licence_of(source) or "not stated"}
    facts = {"name": name, "source": f"https://huggingface.co/{name}"}
    return {**facts, "license": _licence_on_hub(source) or "not stated"}


def _licence_on_hub(name: str) -> str | None:
    """The licence that the card of a model on the Hub states; None if there is none, or no connection."""
    tolerant = {f"_raise_exceptions_for_{fault}": False for fault in ("missing_entries", "connection_errors")}
    card = cached_file(name, "README.md", **tolerant)
    return None if card is None else licence_of(Path(card).parent)


def _corpus(path: str, use: str, tasks: Mapping[str, Task], is_streamed: bool = False) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": _plain_name(path).removesuffix(".parquet"), "use": use, "license": "not stated"}
    if is_streamed:
        return facts
    dataset = read_dataset(path, required="split")
    facts["license"] = dataset.info.license or facts["license"]
    facts |= dict(_counted(dataset))
    if rated := _rated_clips(dataset, tasks):
        facts["rated_clips"] = rated
    return facts | ({"citation": dataset.info.citation} if dataset.info.citation else {})


def _rated_clips(dataset: Dataset, tasks: Mapping[str, Task]) -> dict[str, dict[str, int]]:
    """{task: {rating: clips}}, the clips in the train and dev splits that have a rating; without zeros."""
    used = [split in ("train", "dev") for split in values(dataset, "split")]
    counts: dict[str, dict[str, int]] = {}
    for name, task in tasks.items():
        if not isinstance(task, RegressionTask):
            continue
        for rating, column in zip(task.outputs, task.columns, strict=True):
            given = values(dataset, column) if column in dataset.features else [None] * len(dataset)
            if number := sum(value is not None and here for value, here in zip(given, used, strict=True)):
                counts.setdefault(name, {})[rating] = number
    return counts


def _counted(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    """The numbers of clips and speakers in the train and dev splits, and the languages, where they are known."""
    columns = {name: values(dataset, name) for name in ("split", "speaker", "language") if name in dataset.features}
    used = [row for row, split in enumerate(columns["split"]) if split in ("train", "dev")]
    yield "clips", len(used)
    for name, field in (("speaker", "speakers"), ("language", "language")):
        known = {columns[name][row] for row in used} - {None} if name in columns else set()
        if known and field == "speakers":
            yield field, len(known)
        elif len(known) == 1:  # the card takes one language a corpus
            yield field, known.pop()
