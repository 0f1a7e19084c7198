# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Evaluated systems: the noisy input, checkpoints, cascades and speech-text models."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from .. import DEFAULT_CHECKPOINT
from ..data.mixing import SAMPLING_RATE
from ..inference.features import FeatureFolder, sha256_of_weights
from ..models.sparse_merit.calibration import checkpoint_sha256
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.configuration_speech_text import SPEECH, TEXT, SpeechTextConfig, read_config
from ..models.sparse_merit.experts import count_routed_frames
from ..models.sparse_merit.feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from ..models.sparse_merit.modeling_sparse_merit import (
    SparseMeritForSpeechEnhancementAndEmotion,
    count_parameters,
    encoder_fields,
)
from ..models.sparse_merit.modeling_speech_text import count_speech_text_parameters
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.pipeline_speech_text import SpeechTextPipeline
from ..models.sparse_merit.sources import embedded_name, locate
from ..models.sparse_merit.tasks import (
    EMOTION,
    ENHANCEMENT,
    TASKS,
    ClassificationTask,
    Task,
    further_tasks,
    with_columns,
)
from .configuration import NOISY, EvaluationConfig
from .predictions import Prediction, Reference, System
from .references import build_reference


class NoisyInput:
    """The unchanged input: the trivial enhancement, without emotion."""

    def describe(self) -> dict[str, Any]:
        """Description of the system for the report."""
        return {"name": "the recording as it is"}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """The recordings themselves."""
        return [Prediction(recording, None) for recording in recordings]


class Checkpoint(ABC):
    """What the systems of both types of models have in common. Weights are loaded on first use, so a system whose
    results exist already costs nothing.

    Args:
        model: name of an embedded checkpoint, folder or Hub id; None is the default checkpoint of the package.
        labels: emotion classes to compare; None takes all in the model's order. Those that the model lacks have a
            probability of NaN.
        device: torch device; None is a GPU if available.
        precision: "fp32", "bf16" or "int8".
        labels_from: `{label: label of the model}` to take for labels that the model lacks.
        feature_cache: folder for the outputs of the encoder, see [`EvaluationConfig`].

    Raises:
        OSError: `model` is not a checkpoint.
    """

    config_class: ClassVar[type[SparseMeritConfig | SpeechTextConfig]]
    config: SparseMeritConfig | SpeechTextConfig

    def __init__(
        self,
        model: str | None = None,
        labels: Sequence[str] | None = None,
        device: str | None = None,
        precision: str = "fp32",
        labels_from: Mapping[str, str] | None = None,
        feature_cache: str | None = None,
    ):
        given = model or DEFAULT_CHECKPOINT
        self.name = embedded_name(given) or str(given)
        self.precision, self._feature_cache = precision, feature_cache
        self._source = locate(given)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.config = self.config_class.from_pretrained(self._source)
        self.sha256 = checkpoint_sha256(self._source)
        model_labels: list[str] = TASKS[EMOTION].describe(self.config)["labels"]
        self.labels = model_labels if labels is None else list(labels)
        sources = {own: label for own, label in (labels_from or {}).items() if own not in model_labels}
        names = [sources.get(label, label) for label in self.labels]
        known = [place for place, name in enumerate(names) if name in model_labels]
        # one class alone is no choice
        self._known = known if len(known) > 1 and EMOTION in self.tasks else []
        self._label_ids = [model_labels.index(names[place]) for place in self._known]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks of the system."""
        return list(self.config.tasks)

    def further_tasks(self) -> dict[str, Task]:
        """The clip tasks that have no section of their own in the report, by name."""
        tasks = self.config.task_definitions
        return {name: tasks[name] for name in further_tasks(tasks)}

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Description of the system for the report."""

    @abstractmethod
    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz."""

    def _probabilities(self, logits: torch.Tensor | None, num_clips: int) -> list[np.ndarray | None]:
        if logits is None or not self._known:
            return [None] * num_clips
        if not torch.isfinite(logits).all():
            raise ValueError(f"The emotion scores of {self.name} hold NaN or Inf: its weights may have diverged.")
        probabilities = np.full((num_clips, len(self.labels)), np.nan, dtype=np.float32)
        probabilities[:, self._known] = logits[:, self._label_ids].float().softmax(-1).cpu().numpy()
        return list(probabilities)  # each (labels,)

    def _add_task(self, predictions: list[Prediction], task: str, values: torch.Tensor) -> None:
        if not torch.isfinite(values).all():
            raise ValueError(f"The task {task} of {self.name} gives NaN or Inf: its weights may have diverged.")
        entry = self.config.task_definitions[task]
        classes = entry.classes(self.config) if isinstance(entry, ClassificationTask) else None
        for prediction, value in zip(predictions, values.float().cpu(), strict=True):
            prediction.task_outputs[task] = classes[int(value.argmax())] if classes else value.tolist()


class CheckpointSystem(Checkpoint):
    """A Sparse MERIT checkpoint of any configuration, from a folder or the Hub.

    Args:
        model, labels, device, precision, labels_from, feature_cache: as for `Checkpoint`.
    """

    config_class = SparseMeritConfig
    config: SparseMeritConfig

    @cached_property
    def feature_extractor(self) -> SparseMeritFeatureExtractor:
        """The feature extractor of the checkpoint."""
        return SparseMeritFeatureExtractor.from_pretrained(self._source)

    @cached_property
    def model(self) -> SparseMeritForSpeechEnhancementAndEmotion:
        """The model, on its device."""
        pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(
            self._source, device=self._device, dtype=self.precision
        )
        return pipe.model

    @cached_property
    def features(self) -> FeatureFolder | None:
        """Where the outputs of the encoder are stored; None if the encoder always runs."""
        if self._feature_cache is None or self.precision != "fp32":
            return None
        encoder = [encoder_fields(self.config), sha256_of_weights(self.model.model.encoder), self.model.device.type]
        digest = hashlib.sha256(json.dumps(encoder, sort_keys=True, default=str).encode())
        return FeatureFolder(Path(self._feature_cache) / digest.hexdigest()[:16])

    def describe(self) -> dict[str, Any]:
        """Description of the system for the report."""
        parts = {name: getattr(self.config, name) for name in ("tasks", "integration", "router", "num_experts")}
        return {
            "name": self.name,
            "sha256": self.sha256,
            "device": torch.device(self._device).type,
            "precision": self.precision,
            "parameters": count_parameters(self.config),
            **parts,
            "normalization": self.feature_extractor.normalization,
        }

    @torch.inference_mode()
    def predict(self, recordings: list[np.ndarray], tasks: tuple[str, ...] | None = None) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz, computed as one padded batch.

        Args:
            recordings: the noisy speech.
            tasks: tasks to compute; by default all tasks of the model.

        Raises:
            ValueError: the model's output is not finite.
        """
        inputs = self.feature_extractor(
            recordings, sampling_rate=self.feature_extractor.sampling_rate, padding=True, return_tensors="pt"
        ).to(self.model.device)
        encoder_outputs = self._encoder_outputs(**inputs)
        outputs = self.model(**inputs, tasks=tasks, output_router_logits=True, encoder_outputs=encoder_outputs)
        enhanced = self._enhanced(outputs.enhanced_values, recordings)
        probabilities = self._probabilities(outputs.logits, len(recordings))
        predictions = [Prediction(*pair) for pair in zip(enhanced, probabilities, strict=True)]
        for name in self.further_tasks():
            if name in (tasks or self.tasks):
                self._add_task(predictions, name, outputs.of(name))
        if outputs.router_logits and self.config.router == "sparse":
            self._add_expert_use(predictions, outputs.router_logits, inputs["attention_mask"])
        return predictions

    def _encoder_outputs(
        self, input_values: torch.Tensor, attention_mask: torch.LongTensor
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor] | None:
        """The stored or now stored outputs of the encoder for a batch; None if the model has to run it."""
        if self.features is None:
            return None
        lengths = attention_mask.sum(-1, keepdim=True)
        file = self.features.file_of(torch.cat((lengths, input_values), dim=1).cpu().numpy())
        if (stored := self.features.read(file)) is None:
            layer_outputs, frame_mask = self.model.model.encoder(input_values, attention_mask)
            self.features.write(file, torch.stack(layer_outputs, dim=2).cpu())  # (B, T, L, D)
            return layer_outputs, frame_mask
        frame_mask = self.model._get_feature_vector_attention_mask(stored.shape[1], attention_mask)
        return stored.to(input_values.device).unbind(2), frame_mask

    def _enhanced(self, values: torch.Tensor | None, recordings: list[np.ndarray]) -> Sequence[np.ndarray | None]:
        if values is None:
            return [None] * len(recordings)
        if not torch.isfinite(values).all():
            raise ValueError(f"The enhanced speech of {self.name} holds NaN or Inf: its weights may have diverged.")
        return self.feature_extractor.denormalize(values.float().cpu(), recordings)

    def _add_expert_use(
        self, predictions: list[Prediction], router_logits: dict[str, torch.Tensor], attention_mask: torch.LongTensor
    ) -> None:
        for task, logits in router_logits.items():
            frame_mask = self.model._get_feature_vector_attention_mask(logits.shape[1], attention_mask)
            counts = count_routed_frames(logits, frame_mask).cpu().numpy()  # (clips, experts)
            for prediction, count in zip(predictions, counts, strict=True):
                prediction.num_frames = int(count.sum())
                prediction.expert_use[task] = count / count.sum()


class SpeechTextSystem(Checkpoint):
    """A checkpoint of a speech-text model, from a folder or the Hub, with speech, text, or both.

    Args:
        model, labels, device, labels_from: as for `Checkpoint`.
        precision: "fp32".
        feature_cache: not used, because texts are not stored.

    Raises:
        ValueError: another precision.
    """

    config_class = SpeechTextConfig
    config: SpeechTextConfig

    def __init__(
        self,
        model: str,
        labels: Sequence[str] | None = None,
        device: str | None = None,
        precision: str = "fp32",
        labels_from: Mapping[str, str] | None = None,
        feature_cache: str | None = None,
    ):
        super().__init__(model, labels, device, precision, labels_from, feature_cache)
        if precision != "fp32":
            raise ValueError(f"{self.name} is a speech-text model, in the precision {precision}; expected fp32.")

    @cached_property
    def pipe(self) -> SpeechTextPipeline:
        """Model and processor, on the device."""
        return SpeechTextPipeline.from_pretrained(self._source, device=self._device)

    @property
    def modalities(self) -> list[str]:
        """What the model reads: "speech", "text"."""
        return list(self.config.embedding_sizes)

    @property
    def needs_text(self) -> bool:
        """Whether clips without a text cannot be processed."""
        return TEXT in self.modalities and not self.config.modality_dropout

    def describe(self) -> dict[str, Any]:
        """Description of the system for the report."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "device": torch.device(self._device).type,
            "precision": self.precision,
            "parameters": count_speech_text_parameters(self.config),
            "tasks": self.tasks,
            "modalities": self.modalities,
        }

    @torch.inference_mode()
    def predict(self, recordings: list[np.ndarray], texts: Sequence[str | None] | None = None) -> list[Prediction]:
        """Predictions for clips, computed as one padded batch.

        Args:
            recordings: the noisy speech, (samples,) at 16 kHz.
            texts: the text of each clip, None or blank for none; by default, no clip has one.

        Raises:
            ValueError: a clip lacks a text that the model needs, or the model's output is not finite.
        """
        inputs = self.pipe.processor(
            audio=recordings if SPEECH in self.modalities else None,
            text=(texts or [None] * len(recordings)) if TEXT in self.modalities else None,
            sampling_rate=SAMPLING_RATE,
            return_tensors="pt",
        ).to(self.pipe.model.device)
        outputs = self.pipe.model(**inputs, return_dict=True)
        probabilities = self._probabilities(outputs.logits, len(recordings))
        predictions = [Prediction(None, each) for each in probabilities]
        for name in self.further_tasks():
            self._add_task(predictions, name, outputs.of(name))
        return predictions


class Cascade:
    """A cascade of an enhancement model and an emotion model that gets the enhanced speech, for all its tasks.

    Args:
        enhancement: the first model, with the enhancement task.
        emotion: the second model, with the emotion task.

    Raises:
        ValueError: a model lacks its task, or is a speech-text model.
    """

    def __init__(self, enhancement: Checkpoint | Reference, emotion: Checkpoint | Reference):
        for task, system in ((ENHANCEMENT, enhancement), (EMOTION, emotion)):
            if isinstance(system, SpeechTextSystem):
                raise ValueError(
                    f"The {task} model of a cascade is {system.name}, a speech-text model; expected a Sparse MERIT "
                    "checkpoint or a reference."
                )
            if task not in system.tasks:
                raise ValueError(
                    f"The {task} model of a cascade needs the task {task!r}; {system.name} has {system.tasks}."
                )
        self.enhancement, self.emotion = enhancement, emotion

    def describe(self) -> dict[str, Any]:
        """Description of the system for the report."""
        parts = {"enhancement": self.enhancement.describe(), "emotion": self.emotion.describe()}
        return {"name": f"{self.enhancement.name} + {self.emotion.name}", **parts}

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz: enhanced speech, and what the second model finds in it."""
        cleaned = _predict_tasks(self.enhancement, recordings, [ENHANCEMENT])
        enhanced = [prediction.enhanced for prediction in cleaned if prediction.enhanced is not None]  # all of them
        tasks = [task for task in self.emotion.tasks if task != ENHANCEMENT]
        recognised = _predict_tasks(self.emotion, enhanced, tasks)
        return [
            Prediction(
                first.enhanced,
                second.probabilities,
                first.expert_use | second.expert_use,
                max(first.num_frames, second.num_frames),
                second.task_outputs,
            )
            for first, second in zip(cleaned, recognised, strict=True)
        ]


def _predict_tasks(system: Checkpoint | Reference, recordings: list[np.ndarray], tasks: list[str]) -> list[Prediction]:
    """Predictions of some tasks; references have no other."""
    if isinstance(system, CheckpointSystem):
        return system.predict(recordings, tasks=tuple(tasks))
    return system.predict(recordings)


def build_systems(config: EvaluationConfig) -> tuple[dict[str, list[System]], list[str]]:
    """All systems with their members, and the emotion classes to compare: the configured ones, or those of all
    checkpoints with the emotion task, in order of first appearance (of the first checkpoint if none has it).

    Raises:
        ValueError: a model lacks a task, no model knows one of the labels, or a reference lacks an option.
        OSError: a checkpoint is missing.
    """
    systems = config.members()
    members = [member for some in systems.values() for member in some]
    configs = [read_config(locate(source)) for source in map(_emotion_source, members) if source]
    recognising = [model for model in configs if EMOTION in model.tasks]
    known = [TASKS[EMOTION].describe(model)["labels"] for model in recognising or configs[:1]]
    labels = config.labels or list(dict.fromkeys(label for some in known for label in some))
    built = {name: [_build(member, labels, config) for member in some] for name, some in systems.items()}
    if len(recognising) == len(members) - 1:  # all but the noisy input; references learn any labels
        _check_known(config, {label for some in known for label in some}, labels)
    return built, labels


def list_further_tasks(
    systems: Mapping[str, Sequence[System]], task_columns: Mapping[str, str | Sequence[str]]
) -> dict[str, Task]:
    """The clip tasks of all systems that have no section of their own in the report, by name.

    Args:
        systems: the members of each system.
        task_columns: columns of the speech datasets with the targets of a task, {task: column or columns}, where they
            do not have the names of the ratings, or that of the task.

    Raises:
        ValueError: systems have different tasks of the same name, or the columns do not fit.
    """
    tasks: dict[str, Task] = {}
    members = (member for each in systems.values() for member in each)
    predicting = [member.emotion if isinstance(member, Cascade) else member for member in members]
    for system in (member for member in predicting if isinstance(member, Checkpoint)):
        for name, task in system.further_tasks().items():
            task = with_columns(name, task, task_columns.get(name, task.columns))
            known = tasks.setdefault(name, task)
            if known.describe(system.config) != task.describe(system.config):
                raise ValueError(
                    f"The systems have different tasks {name!r}: {known.describe(system.config)} and "
                    f"{task.describe(system.config)}. Evaluate them separately."
                )
    if unknown := sorted(set(task_columns) - set(tasks)):
        raise ValueError(f"`task_columns` has {unknown}; expected some of the further tasks {list(tasks)}.")
    return tasks


def _check_known(config: EvaluationConfig, known: set[str], labels: list[str]) -> None:
    """Refuses labels that no checkpoint knows."""
    sources = {label: {label, config.labels_from.get(label, label)} for label in labels}
    unknown = [label for label, names in sources.items() if not names & known]
    unused = [label for label in config.labels_from.values() if label not in known]
    if unknown or unused:
        raise ValueError(
            f"`labels` has {unknown or unused}, which no model knows; expected some of {sorted(known)}, or OWN=LABEL "
            "to take the LABEL of a model for OWN."
        )


def _build(member: str | Mapping[str, Any] | None, labels: list[str], config: EvaluationConfig) -> System:
    if member == NOISY:
        return NoisyInput()
    if isinstance(member, Mapping) and set(member) == {ENHANCEMENT, EMOTION}:
        return Cascade(*(_build_part(member[task], labels, config) for task in (ENHANCEMENT, EMOTION)))
    return _build_part(member, labels, config)


def _build_part(
    member: str | Mapping[str, Any] | None, labels: list[str], config: EvaluationConfig
) -> CheckpointSystem | SpeechTextSystem | Reference:
    """A checkpoint or a reference."""
    if isinstance(member, Mapping) and "reference" in member:
        options = {name: value for name, value in member.items() if name != "reference"}
        return build_reference(member["reference"], options, labels)
    given: Mapping[str, Any] = member if isinstance(member, Mapping) else {"model": member, "precision": "fp32"}
    source = locate(given["model"] or DEFAULT_CHECKPOINT)
    kind = SpeechTextSystem if isinstance(read_config(source), SpeechTextConfig) else CheckpointSystem
    return kind(given["model"], labels, config.device, given["precision"], config.labels_from, config.feature_cache)


def _emotion_source(member: str | Mapping[str, Any] | None) -> str | None:
    """The checkpoint that provides the emotion classes of a member; None without one."""
    if isinstance(member, Mapping):
        source = member.get(EMOTION) or member.get("model")
        return source if isinstance(source, str) else None
    return None if member == NOISY else member or str(DEFAULT_CHECKPOINT)
