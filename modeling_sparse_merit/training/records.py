# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What a training run records next to its best model, for the model card: its settings, and its data."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from ..data.dataset_card import values
from ..data.datasets import read_dataset
from ..hub.adapter_card import is_public, licence_of
from ..models.sparse_merit.sources import locate, portable_name
from .settings import TrainingSettings

STARTS = ("model", "encoder", "wavlm")


def write_settings(folder: Path, settings: TrainingSettings) -> None:
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
        data: As [`training_data`] returns it.
    """
    _write(folder / "training_data.yaml", data)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def recorded(settings: TrainingSettings) -> dict[str, Any]:
    """The settings of a run that differ from the defaults, without paths of this machine."""
    starts = {name: _start(settings, name) for name in STARTS if getattr(settings, name)}
    defaults = asdict(TrainingSettings(**{name: getattr(settings, name) for name in starts}))
    changed = {name: value for name, value in asdict(settings).items() if value != defaults[name]}
    record = {**starts, "labels": settings.labels, **changed}
    for name in ("output_dir", "resume", "dataloader_num_workers", "feature_cache", "cleaned_by"):
        record.pop(name, None)
    for name in ("speech", "unlabelled", "noise", "rirs"):
        if name in record:
            record[name] = [_plain_name(path) for path in record[name]]
    if "sampling_weights" in record:  # of datasets and of labels
        record["sampling_weights"] = {_plain_name(name): weight for name, weight in record["sampling_weights"].items()}
    if "teacher" in record:
        record["teacher"] = _plain_name(portable_name(locate(record["teacher"])))
    return {name: dict(value) if isinstance(value, dict) else value for name, value in record.items()}


def _start(settings: TrainingSettings, name: str) -> str:
    """The name of the checkpoint that a run starts from."""
    given = getattr(settings, name)
    return _plain_name(given if name == "wavlm" else portable_name(locate(given)))


def _plain_name(path: str) -> str:
    """A path that exists on this machine without its folders; any other name as it is."""
    return Path(path).name if Path(path).exists() else path


def training_data(settings: TrainingSettings) -> dict[str, Any]:
    """
    The content of `training_data.yaml`: the datasets of a run with their licences, and the checkpoint that was
    fine-tuned, whose licence also applies.

    Args:
        settings: Settings of the run. Of streamed speech, only the name is known.

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
        _corpus(path, use, is_streamed=settings.streaming and use == "speech") for use, paths in uses for path in paths
    ]
    return data


def _corpus(path: str, use: str, is_streamed: bool) -> dict[str, Any]:
    facts = {"name": _plain_name(path).removesuffix(".parquet"), "use": use, "license": "not stated"}
    if is_streamed:
        return facts
    dataset = read_dataset(path)
    facts["license"] = dataset.info.license or facts["license"]
    return facts | dict(_counted(dataset)) | ({"citation": dataset.info.citation} if dataset.info.citation else {})


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
