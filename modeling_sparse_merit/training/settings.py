# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The settings of a training run: a YAML file, any field of which the command line can override."""

import math
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field
from transformers import SchedulerType

from ..data.transmission import checked_transmissions
from ..fields import (
    Count,
    Names,
    NonNegative,
    Number,
    Positive,
    PositiveCount,
    Probability,
    checked_dataclass,
    names_of,
    require,
    split_labels,
    unknown_names,
)
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.tasks import EMOTION, TASKS
from .arguments import parse_fields

UNLABELLED_NAME = "unlabelled"
EQUAL_CLASSES = ("oversampled", "undersampled")
"""Values of `sampling` with which every batch has equally many clips of each class."""


class YamlMapping(dict):
    """
    A mapping that can also be given as YAML text, on the command line.

    Raises:
        ValueError: The value is no mapping.
    """

    def __init__(self, value: Any = ()):
        try:
            super().__init__(yaml.safe_load(value) if isinstance(value, str) else value)
        except (TypeError, yaml.YAMLError) as error:
            raise ValueError(f"{value!r} is no mapping") from error


def _ascending(limits: list[float]) -> list[float]:
    if limits[0] > limits[1]:
        raise ValueError(limits)
    return limits


Range = Annotated[
    list[Number], Field(min_length=2, max_length=2), AfterValidator(_ascending), "two numbers, the smaller one first"
]
Layers = Annotated[list[Annotated[int, Field(strict=True)]], "a list of whole numbers"]
Fraction = Annotated[Number, Field(ge=0, lt=1), "a number of at least 0 and below 1"]
Entries = Annotated[YamlMapping, BeforeValidator(YamlMapping), "a mapping"]


@checked_dataclass
class TrainingSettings:
    """
    Settings of a training run. Every field can be set in the YAML file and on the command line, which has precedence.

    A field has the name of its counterpart in [`~transformers.TrainingArguments`] if its meaning and its form are the
    same. These have names of their own: `frozen_epochs` and `epochs` are two stages, not one number of epochs;
    `resume` is a switch, `resume_from_checkpoint` a path; `warmup_ratio` is a share of each stage, `warmup_steps`
    counts over the run; `mixed_precision` is one choice, `bf16` and `fp16` are two switches; `eval_every` counts
    epochs, `eval_steps` steps. `max_steps` only ends a run early: it neither prolongs it nor changes its schedule.

    Args:
        output_dir: Folder of the logs, the checkpoints and the result, `best`.
        resume: Continue from the newest checkpoint in `output_dir`, if there is one.
        seed: Seed of the initial weights, of dropout, of the order of the clips and of their mixtures.
        data_seed: Seed of the order of the clips and of their mixtures; None takes `seed`. Runs of several seeds with
            one `data_seed` get the same batches, and share the features in `feature_cache`.
        model: Sparse MERIT checkpoint to fine-tune: a name, a folder or a Hub id. See also `encoder` and `wavlm`.
        wavlm: WavLM checkpoint to take the encoder from; everything else is initialised.
        encoder: Sparse MERIT checkpoint to take the encoder and the input scale from; everything else is initialised.
            Without `model`, `wavlm` and `encoder` the whole model is initialised.
        cleaned_by: Sparse MERIT checkpoint, or enhancer of another package (a name in
            `evaluation.enhancers.ENHANCERS`), that enhances every mixture before the model receives it: the
            enhancement model of a cascade, which stays frozen.
        config: Fields of SparseMeritConfig that differ from `model`, `encoder`, `wavlm` or the defaults. Classes and
            embeddings in its `clip_tasks` without `labels` get those of the training clips.
        tasks: Tasks to train, all of the model's by default. The heads of the others do not change.
        freeze_experts: Train only the heads and the routers of `tasks`, on the experts of `model`. Results of its
            other tasks do not change, and a new one fits into a small file (`sparse-merit export --task`).
        task_columns: Columns of `speech` that the tasks in `clip_tasks` learn from, {task: column or columns}. By
            default they have the names of the ratings, or that of the task.
        task_balancing: How the losses of the tasks are combined: by the fixed weights of the config, by learned
            uncertainty (Kendall et al. 2018), or by pcgrad, which projects conflicting gradients (Yu et al. 2020; one
            backward pass per task).
        uncertainty_learning_rate: Learning rate of the log variances of `task_balancing: uncertainty`.
        descriptor_weight: Pre-training: weight of the loss that predicts acoustic descriptors of the clean speech,
            which the speech datasets must contain (`sparse-merit prepare descriptors`).
        teacher: Distillation: Sparse MERIT checkpoint to learn from. It receives the clean speech.
        teacher_layers: Hidden states of the teacher to imitate: 0 is the input of its first layer, -1 the last one.
        student_layers: Hidden states of the model that imitate `teacher_layers`, one each; the last one for all by
            default.
        distillation_weight: Weight of the loss of `teacher_layers`.
        distillation_logits_weight: Weight of the divergence from the emotions that the teacher predicts.
        distillation_temperature: Divides the logits of both models: a higher one gives unlikely emotions more weight.
        labels: Emotions to learn, as the speech datasets name them. Those of `model` start from its rows of the
            classifier; OWN=LABEL starts the emotion OWN from the row of LABEL, as in upset=angry.
        labels_from: The same as a mapping, {upset: angry}, for names in `labels`.
        class_weights: Weights of the classes in the emotion loss; effective_number is that of Cui et al. 2019.
        class_weight_beta: Beta of `class_weights: effective_number`; rare classes gain weight as it approaches 1.
        sampling: Clips of an epoch: natural (each once), class_balanced (equally many of each class, and clips without
            a class once) or weighted (see `sampling_weights`), all with the same number of clips; oversampled (those
            of each class as often as needed to equal the largest) or undersampled (as many of each class as the
            smallest has, others in each epoch), both without clips that have no class, and with equally many of each
            class in a batch.
        sampling_weights: Relative frequency of clips, 1 by default: that of their dataset times that of their label,
            as in {tables/emodb: 3, happy: 2, unlabelled: 0.5}.
        normalization: Scale of the input: that of each recording, or of the corpus (`corpus_mean`, `corpus_std`).
        corpus_mean: Mean of the samples of the corpus, which range from -1 to 1.
        corpus_std: Standard deviation of the samples of the corpus.
        spectral_feature_encoder: Initialise the first convolution of a new encoder with a bank of windowed sines.
        speech: Speech datasets: folders, files or Hub ids (owner/name). The splits 'train' and 'dev' are used.
        unlabelled: Those of `speech` whose emotion labels are ignored, for example because they are unreliable. They
            still serve the other tasks.
        noise: Noise datasets: folders, files or Hub ids. The splits 'train' and 'dev' are used.
        rirs: Datasets of room impulse responses (RIRs).
        streaming: Read the training speech from the Hub during training, without downloading it first. Batches then
            mix clips of all lengths.
        shuffle_buffer: Clips of each streamed dataset that are kept in memory to draw the next one from.
        snr_db: Range of the signal-to-noise ratio in dB. The paper also trains at exactly 5 dB, [5, 5].
        level_db: Range of the speech level, RMS in dB relative to full scale.
        speed: Range of the speed factor of the speech.
        pitch_semitones: Range of the pitch shift of the speech in semitones, at unchanged speed.
        pitch_probability: Share of the clips with a pitch shift.
        noise_speed: Range of the speed factor of the noise.
        rir_probability: Share of the clips that are convolved with one of `rirs`.
        transmissions: Transmissions of the mixtures, such as gsm or telephone; one is drawn for a clip. The target of
            the enhancement is the clean speech in the band of the transmission.
        transmission_probability: Share of the clips with a transmission.
        clipping_probability: Share of the clips whose mixture is clipped, up to 15 dB below its peak.
        clean_probability: Share of the clips without noise, which teach the model to preserve clean speech.
        max_seconds: Training clips that are longer, in seconds, are cropped at a random position.
        dataloader_num_workers: Processes that decode and mix clips; 0 does so in the main process.
        calibration_batches: Batches that set the layer norms before experts and routers to zero mean and unit
            variance before training; 20 suit a pretrained encoder, 0 leaves them as they are.
        frozen_epochs: Epochs of the first stage, in which the encoder is frozen.
        feature_cache: Folder for the hidden states of the frozen encoder: 50 x layers x width numbers per second of
            speech. The mixtures of the first stage then repeat after `feature_cache_rounds` epochs.
        feature_cache_rounds: Epochs with different mixtures; disk space is proportional to it.
        feature_cache_dtype: Type of the numbers in `feature_cache`; that of `mixed_precision` by default.
        epochs: Epochs of the second stage, in which everything is trained except the feature encoder.
        train_feature_encoder: Train the convolutional feature encoder as well.
        per_device_train_batch_size: Clips in a batch of each process, in training and in validation. By default 32 (as
            in the paper) or, for fewer than 512 clips, a sixteenth of their number, but at least 4.
        train_sampling_strategy: Batches have clips of similar length, or random ones; the latter is the default for a
            CCC loss, which is biased if the clips of a batch are alike.
        gradient_accumulation_steps: Batches per optimizer step.
        learning_rate: Peak learning rate of AdamW; by default 5e-5 (as in the paper), and 5e-4 with adapters, which
            are small and start at zero.
        encoder_learning_rate_factor: Learning rate of the encoder relative to `learning_rate`.
        weight_decay: Weight decay of matrices and convolutions; biases and norms have none.
        warmup_ratio: Share of the steps of each stage with a linear warm-up.
        lr_scheduler_type: Schedule of the learning rate after the warm-up.
        max_grad_norm: Norm to which gradients are clipped.
        mixed_precision: Precision of the forward pass; no is float32.
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        average_decay: Decay per step of the exponential moving average (EMA) of the weights, which is then what is
            validated and kept; 0 uses no average.
        lora_rank: Rank of the adapters (LoRA) on the encoder of `model`; 0 trains the encoder itself.
        lora_alpha: Scale of the adapters: they are multiplied by lora_alpha / lora_rank.
        lora_dropout: Dropout in front of the adapters.
        lora_train_modules: Parts that are trained in full along with the adapters, and saved with them: experts,
            routers, or the heads of tasks.
        eval_every: Epochs between two validations.
        eval_snr_db: Range of the signal-to-noise ratio of the dev set in dB.
        si_sdr_weight: The score that selects the best checkpoint is the mean metric of the tasks (macro-F1 of the
            emotion) + si_sdr_weight * gain of SI-SDR in dB.
        patience: Validations without a better score after which a stage ends; 0 never ends it early.
        save_steps: Optimizer steps after which a checkpoint is written within an epoch; 0 writes none. There is always
            one at the end of an epoch.
        save_minutes: The same in minutes.
        save_total_limit: Checkpoints to keep; older ones are deleted.
        max_steps: Optimizer steps after which the run ends; an unfinished epoch counts as finished. 0 is no limit.

    Raises:
        ValueError: A field has a wrong value or contradicts another one; the message names it.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "batch_size": "per_device_train_batch_size",
        "keep_checkpoints": "save_total_limit",
        "schedule": "lr_scheduler_type",
        "workers": "dataloader_num_workers",
    }

    output_dir: str = "runs/sparse-merit"
    resume: bool = True
    seed: Count = 0
    data_seed: Count | None = None

    # What a run starts from
    model: str | None = None
    wavlm: str | None = None
    encoder: str | None = None
    cleaned_by: str | None = None
    config: Entries = field(default_factory=YamlMapping)

    # Losses
    tasks: Annotated[Names, Field(min_length=1)] | None = None
    freeze_experts: bool = False
    task_columns: Entries = field(default_factory=YamlMapping)
    task_balancing: Literal["fixed", "uncertainty", "pcgrad"] = "fixed"
    uncertainty_learning_rate: Positive = 0.01
    descriptor_weight: NonNegative = 0.0
    teacher: str | None = None
    teacher_layers: Layers = field(default_factory=list)
    student_layers: Layers = field(default_factory=list)
    distillation_weight: NonNegative = 0.0
    distillation_logits_weight: NonNegative = 0.0
    distillation_temperature: Positive = 2.0

    # Labels
    labels: Annotated[Names, Field(min_length=1)] = field(default_factory=lambda: ["angry", "sad", "happy", "neutral"])
    labels_from: Entries = field(default_factory=YamlMapping)
    class_weights: Literal["inverse_frequency", "effective_number", "none"] = "inverse_frequency"
    class_weight_beta: Annotated[Number, Field(gt=0, lt=1), "a number between 0 and 1"] = 0.999
    sampling: Literal["natural", "class_balanced", "weighted", "oversampled", "undersampled"] = "natural"
    sampling_weights: Entries = field(default_factory=YamlMapping)

    # Input of the model
    normalization: Literal["recording", "corpus"] = "recording"
    corpus_mean: Number | None = None
    corpus_std: Positive | None = None
    spectral_feature_encoder: bool = False

    # Data
    speech: Names = field(default_factory=list)
    unlabelled: Names = field(default_factory=list)
    noise: Names = field(default_factory=list)
    rirs: Names = field(default_factory=list)
    streaming: bool = False
    shuffle_buffer: PositiveCount = 1000
    snr_db: Range = field(default_factory=lambda: [-5.0, 15.0])
    level_db: Range = field(default_factory=lambda: [-35.0, -15.0])
    speed: Range = field(default_factory=lambda: [1.0, 1.0])
    pitch_semitones: Range = field(default_factory=lambda: [0.0, 0.0])
    pitch_probability: Probability = 0.5
    noise_speed: Range = field(default_factory=lambda: [1.0, 1.0])
    rir_probability: Probability = 0.0
    transmissions: Names = field(default_factory=list)
    transmission_probability: Probability = 0.0
    clipping_probability: Probability = 0.0
    clean_probability: Probability = 0.0
    max_seconds: Positive = 12.0
    dataloader_num_workers: Count = 1

    # Optimization
    calibration_batches: Count = 0
    frozen_epochs: Count = 0
    feature_cache: str | None = None
    feature_cache_rounds: PositiveCount = 1
    feature_cache_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    epochs: Count = 20
    train_feature_encoder: bool = False
    per_device_train_batch_size: PositiveCount | None = None
    train_sampling_strategy: Literal["group_by_length", "random"] | None = None
    gradient_accumulation_steps: PositiveCount = 1
    learning_rate: Positive | None = None
    encoder_learning_rate_factor: Positive = 0.5
    weight_decay: NonNegative = 0.01
    warmup_ratio: Probability = 0.1
    lr_scheduler_type: SchedulerType = "cosine"  # type: ignore[assignment]  # `use_enum_values`
    max_grad_norm: Positive = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    average_decay: Fraction = 0.0

    # Adapters
    lora_rank: Count = 0
    lora_alpha: PositiveCount = 16
    lora_dropout: Fraction = 0.0
    lora_train_modules: Names = field(default_factory=lambda: ["experts", "routers", EMOTION])

    # Validation and checkpoints
    eval_every: PositiveCount = 1
    eval_snr_db: Range = field(default_factory=lambda: [-5.0, 10.0])
    si_sdr_weight: Number = 0.05
    patience: Count = 0
    save_steps: Count = 0
    save_minutes: NonNegative = 0.0
    save_total_limit: PositiveCount = 2
    max_steps: Count = 0

    def __post_init__(self) -> None:
        self._check_start()
        self._check_data()
        self._check_labels()
        self._check_experts()
        self._check_balancing()
        self._check_feature_cache()
        self._check_descriptors()
        self._check_distillation()
        self._check_adapters()

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or its default."""
        return self.learning_rate or (5e-4 if self.lora_rank else 5e-5)

    def batch_size(self, clips: int) -> int:
        """`per_device_train_batch_size`, or its default for a number of clips."""
        return self.per_device_train_batch_size or min(32, max(4, clips // 16))

    @property
    def seed_of_data(self) -> int:
        """The seed of the order of the clips and of their mixtures."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def label_sources(self) -> dict[str, str]:
        """{label: the label of `model` whose classifier row it starts from, if there is one}, in order."""
        return {label: self.labels_from.get(label, label) for label in self.labels}

    def _check_start(self) -> None:
        starts = {name: getattr(self, name) for name in ("model", "encoder", "wavlm") if getattr(self, name)}
        if len(starts) > 1:
            raise ValueError(f"{starts} are given, but the encoder has one source; expected exactly one of them.")
        if unknown := unknown_names(map(str, self.config), names_of(SparseMeritConfig)):
            raise ValueError(f"`config` has fields that SparseMeritConfig lacks: {unknown}")
        known = [*TASKS, *(self.config.get("clip_tasks") or {})]
        are_known = self.model is not None or set(self.tasks or ()) <= set(
            known
        )  # those of the model are not read yet
        require(self, "tasks", are_known, f"some of {known}, or null")
        clip_tasks = known[len(TASKS) :]
        are_clip_tasks = self.model is not None or set(self.task_columns) <= set(clip_tasks)
        require(self, "task_columns", are_clip_tasks, f"columns of some of the `clip_tasks` of `config`, {clip_tasks}")

    def _check_data(self) -> None:
        require(self, "rir_probability", self.rirs or not self.rir_probability, "0, because there are no `rirs`")
        checked_transmissions(self.transmissions)
        is_possible = self.transmissions or not self.transmission_probability
        require(self, "transmission_probability", is_possible, "0, because there are no `transmissions`")
        require(self, "unlabelled", set(self.unlabelled) <= set(self.speech), f"some of `speech`, {self.speech}")
        require(
            self, "unlabelled", not (self.unlabelled and self.streaming), "an empty list, because speech is streamed"
        )

    def _check_labels(self) -> None:
        """Checks the labels, and splits OWN=LABEL: `labels` has OWN, `labels_from` {OWN: LABEL}."""
        names, mapped = split_labels(self.labels)
        conflicts = [own for own in mapped if self.labels_from.get(own, mapped[own]) != mapped[own]]
        require(self, "labels_from", not conflicts, f"the same source of {conflicts} as in `labels`")
        require(self, "labels_from", set(self.labels_from) <= set(names), f"names in `labels`, {names}")
        self.labels, self.labels_from = names, YamlMapping({**self.labels_from, **mapped})
        if self.labels_from and self.model is None:
            raise ValueError(
                f"`labels` starts {dict(self.labels_from)} from labels of a `model`, but `model` is None: name the "
                "checkpoint to fine-tune, or leave out what follows '='."
            )

    def _check_experts(self) -> None:
        others = {name: getattr(self, name) for name in ("epochs", "lora_rank", "calibration_batches")}
        if self.freeze_experts and (not self.model or not self.tasks or any(others.values())):
            raise ValueError(
                f"`freeze_experts` trains `tasks` of a `model` in frozen_epochs; expected both, not {self.tasks} and "
                f"{self.model}, and 0 for {others}."
            )

    def _check_balancing(self) -> None:
        if self.task_balancing == "pcgrad" and self.mixed_precision == "fp16":
            raise ValueError(
                "`task_balancing` is pcgrad, which can't project the scaled gradients of `mixed_precision` fp16; "
                "expected bf16 or no."
            )
        if self.sampling in ("class_balanced", *EQUAL_CLASSES) and self.class_weights != "none":
            raise ValueError(
                f"`sampling` is {self.sampling} and `class_weights` is {self.class_weights}, which would balance the "
                "classes twice; expected class_weights none."
            )
        require(
            self, "sampling", self.sampling == "natural" or not self.streaming, "natural, because speech is streamed"
        )
        known = {*self.speech, *self.labels, UNLABELLED_NAME}
        valid_weights = set(self.sampling_weights) <= known and all(
            isinstance(weight, int | float) and 0 <= weight < math.inf for weight in self.sampling_weights.values()
        )
        require(self, "sampling_weights", valid_weights, f"numbers of at least 0 for some of {sorted(known)}")
        if bool(self.sampling_weights) != (self.sampling == "weighted"):
            raise ValueError(
                f"`sampling` is {self.sampling} and `sampling_weights` is {dict(self.sampling_weights)}; expected "
                "weights if `sampling` is weighted, and none otherwise."
            )

    def _check_feature_cache(self) -> None:
        needs_speech = bool(self.cleaned_by) and self.tasks != [EMOTION]
        given = {name: getattr(self, name) for name in ("streaming", "frozen_epochs", "cleaned_by", "tasks")}
        if self.feature_cache and (self.streaming or not self.frozen_epochs or needs_speech):
            raise ValueError(
                f"`feature_cache` is {self.feature_cache}, which needs a frozen encoder and mixtures that repeat; "
                f"expected frozen_epochs above 0, no streaming and, with cleaned_by, tasks [{EMOTION}], not {given}."
            )

    def _check_descriptors(self) -> None:
        needed = {"speed": [1, 1], "pitch_semitones": [0, 0], "streaming": False, "task_balancing": "fixed"}
        given = {name: getattr(self, name) for name in needed}
        if self.descriptor_weight and (given != needed or EMOTION not in (self.tasks or TASKS)):
            raise ValueError(
                f"`descriptor_weight` is {self.descriptor_weight}, but descriptors exist for unchanged speech only, "
                f"and are predicted from the features of the task emotion; expected this task and {needed}, not "
                f"{self.tasks or 'all'} tasks and {given}."
            )

    def _check_distillation(self) -> None:
        weights = {name: getattr(self, name) for name in ("distillation_weight", "distillation_logits_weight")}
        if bool(self.teacher) != any(weights.values()):
            raise ValueError(f"`teacher` is {self.teacher} and its weights are {weights}; expected both or neither.")
        if bool(self.teacher_layers) != (self.distillation_weight > 0):
            raise ValueError(
                f"`teacher_layers` is {self.teacher_layers} and `distillation_weight` is {self.distillation_weight}; "
                "expected layers and a weight above 0, or neither."
            )
        paired = len(self.student_layers) in (0, len(self.teacher_layers))
        require(self, "student_layers", paired, f"one layer for each of `teacher_layers`, {self.teacher_layers}")
        needed = {"task_balancing": "fixed", "descriptor_weight": 0}
        given = {name: getattr(self, name) for name in needed}
        if self.teacher and given != needed:
            raise ValueError(f"`teacher` is {self.teacher}; expected {needed} with it, not {given}.")
        if self.distillation_logits_weight and EMOTION not in (self.tasks or TASKS):
            raise ValueError(
                f"`distillation_logits_weight` is {self.distillation_logits_weight}, but `tasks` is {self.tasks}; "
                "expected emotion among them."
            )

    def _check_adapters(self) -> None:
        new = sorted(set(self.config.get("clip_tasks") or ()) - set(self.lora_train_modules))
        if self.lora_rank and new:
            raise ValueError(
                f"`lora_train_modules` is {self.lora_train_modules}, without the `clip_tasks` {new}, whose heads "
                "would not be trained; add them."
            )
        calibrated = not (self.lora_rank and self.calibration_batches) or "experts" in self.lora_train_modules
        require(self, "lora_train_modules", calibrated, "experts among them, because of `calibration_batches`")
        if self.lora_rank and (self.model is None or self.train_feature_encoder):
            raise ValueError(
                f"`lora_rank` is {self.lora_rank}, but adapters need a `model` and leave its feature encoder frozen; "
                f"`model` is {self.model} and `train_feature_encoder` is {self.train_feature_encoder}."
            )


def parse_settings(arguments: list[str] | None = None) -> TrainingSettings:
    """
    Reads `[CONFIG.yaml] [--field value ...]`, see [`parse_fields`].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A field is unknown or has a wrong value, or a file extends itself.
    """
    return parse_fields(
        TrainingSettings,
        arguments,
        "Trains Sparse MERIT. CONFIG.yaml comes first, then what overrides it.",
        "Example: sparse-merit train CONFIG.yaml --learning_rate 1e-4",
    )
