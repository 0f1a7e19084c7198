# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What a training run is made of: a YAML file, any field of which the command line can override."""

import math
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, SchedulerType

from ..data.transmission import TRANSMISSIONS, checked_transmissions
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.tasks import EMOTION, TASKS

PRECISIONS = ("no", "bf16", "fp16")
TASK_BALANCINGS = ("fixed", "uncertainty", "pcgrad")
CLASS_WEIGHTS = ("inverse_frequency", "effective_number", "none")
SAMPLINGS = ("natural", "class_balanced", "weighted")
UNLABELLED_NAME = "unlabelled"


class YamlMapping(dict):
    """A mapping that can also be given as YAML text, on the command line."""

    def __init__(self, value: Any = ()):
        super().__init__(yaml.safe_load(value) if isinstance(value, str) else value)


@dataclass
class TrainingSettings:
    """
    One training run. Every field can stand in the YAML file and on the command line, where the latter wins.

    Raises:
        ValueError: A field is outside its range; the message names it.
    """

    output_dir: str = field(
        default="runs/sparse-merit", metadata={"help": "Folder of logs, checkpoints and the result."}
    )
    resume: bool = field(
        default=True, metadata={"help": "Continue from the newest checkpoint in output_dir, if there is one."}
    )
    seed: int = 0

    model: str | None = field(
        default=None,
        metadata={"help": "Sparse MERIT checkpoint to fine-tune (name, folder or Hub id); else see wavlm."},
    )
    wavlm: str | None = field(
        default=None,
        metadata={"help": "WavLM checkpoint for the encoder; without it the encoder starts from scratch."},
    )
    encoder: str | None = field(
        default=None,
        metadata={
            "help": "Sparse MERIT checkpoint whose encoder and input scale are taken; all else starts from scratch."
        },
    )
    cleaned_by: str | None = field(
        default=None,
        metadata={
            "help": "Sparse MERIT checkpoint that cleans every mixture, of train and dev, before this model hears it: "
            "the enhancement model of a cascade, which does not learn."
        },
    )
    config: YamlMapping = field(
        default_factory=YamlMapping,
        metadata={"help": "Fields of SparseMeritConfig that differ from model, encoder, wavlm or default."},
    )
    tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "What this run teaches, all of the model's tasks by default. The other heads stay as they are."
        },
    )
    task_balancing: str = field(
        default="fixed",
        metadata={
            "help": "How the tasks' losses are weighed: fixed (enhancement_weight of the config), uncertainty "
            "(learned, Kendall et al. 2018) or pcgrad (conflicting gradients are projected, Yu et al. 2020; a "
            "backward pass for each task)."
        },
    )
    uncertainty_learning_rate: float = field(
        default=0.01,
        metadata={"help": "Of the log variances of task_balancing uncertainty: a step moves one by this."},
    )
    descriptor_weight: float = field(
        default=0.0,
        metadata={
            "help": "Pre-training: weight of the loss of acoustic descriptors of the clean speech, which the speech "
            "tables must hold (`sparse-merit prepare descriptors`)."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "Distillation: Sparse MERIT checkpoint to learn from, which is given the clean speech."},
    )
    teacher_layers: list[int] = field(
        default_factory=list,
        metadata={"help": "Layer outputs of the teacher to imitate: 0 is the input of its first layer, -1 the last."},
    )
    student_layers: list[int] = field(
        default_factory=list,
        metadata={"help": "Layer outputs that imitate teacher_layers, one each; the last one for all by default."},
    )
    distillation_weight: float = field(default=0.0, metadata={"help": "Weight of the loss of teacher_layers."})
    distillation_logits_weight: float = field(
        default=0.0, metadata={"help": "Weight of the divergence from the teacher's emotions of the clean speech."}
    )
    distillation_temperature: float = field(
        default=2.0, metadata={"help": "Of both models' logits: the higher, the more unlikely emotions count."}
    )
    labels: list[str] = field(
        default_factory=lambda: ["angry", "sad", "happy", "neutral"],
        metadata={
            "help": "Emotions to learn, as the speech datasets name them. Those that `model` has start from its "
            "classifier rows; OWN=LABEL starts the emotion OWN from the row of LABEL, as in upset=angry."
        },
    )
    labels_from: YamlMapping = field(
        default_factory=YamlMapping,
        metadata={"help": "The same as a mapping: {upset: angry}, for names in labels."},
    )
    class_weights: str = field(
        default="inverse_frequency",
        metadata={"help": "Of the emotion loss: inverse_frequency, effective_number (Cui et al. 2019) or none."},
    )
    class_weight_beta: float = field(
        default=0.999, metadata={"help": "Of class_weights effective_number: nearer to 1, rare classes count more."}
    )
    sampling: str = field(
        default="natural",
        metadata={
            "help": "Clips of an epoch: natural (each once), class_balanced (as many of each class; clips without one "
            "once) or weighted (see sampling_weights). The number of clips stays."
        },
    )
    sampling_weights: YamlMapping = field(
        default_factory=YamlMapping,
        metadata={
            "help": "How often a clip is drawn, 1 by default, by its dataset times by its label: {tables/emodb: 3, "
            "happy: 2, unlabelled: 0.5}."
        },
    )
    normalization: str = field(default="recording", metadata={"help": "Scale of the input: recording or corpus."})
    corpus_mean: float | None = None
    corpus_std: float | None = None
    spectral_feature_encoder: bool = field(
        default=False,
        metadata={"help": "Start a fresh first convolution as a bank of windowed sines (see spectral.py)."},
    )

    speech: list[str] = field(
        default_factory=list,
        metadata={"help": "Speech datasets, here or on the Hub (owner/name); splits 'train' and 'dev' are used."},
    )
    unlabelled: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Those of `speech` whose emotion labels are not used, for example because they are weak: they "
            "are further voices for the enhancement."
        },
    )
    noise: list[str] = field(
        default_factory=list,
        metadata={"help": "Noise datasets, here or on the Hub; splits 'train' and 'dev' are used."},
    )
    rirs: list[str] = field(default_factory=list, metadata={"help": "Datasets of room impulse responses, if any."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training speech from the Hub while training, instead of downloading it first. Batches "
            "then hold clips of any length."
        },
    )
    shuffle_buffer: int = field(
        default=1000, metadata={"help": "When streaming: clips of each dataset in memory, among which one is drawn."}
    )
    snr_db: list[float] = field(default_factory=lambda: [5.0, 5.0], metadata={"help": "Range of the drawn SNR in dB."})
    level_db: list[float] = field(default_factory=lambda: [-35.0, -15.0], metadata={"help": "Speech level, dBFS RMS."})
    speed: list[float] = field(default_factory=lambda: [1.0, 1.0], metadata={"help": "Range of speed factors."})
    pitch_semitones: list[float] = field(
        default_factory=lambda: [0.0, 0.0], metadata={"help": "Range of pitch shifts of the speech, at its own speed."}
    )
    pitch_probability: float = field(default=0.5, metadata={"help": "Share of the clips with a pitch shift."})
    noise_speed: list[float] = field(
        default_factory=lambda: [1.0, 1.0], metadata={"help": "Range of speed factors of the noise."}
    )
    rir_probability: float = 0.0
    transmissions: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"Transmissions of the mixtures, one of which is drawn: some of {', '.join(TRANSMISSIONS)}. The "
            "target of the enhancement is the clean speech in the band of the transmission."
        },
    )
    transmission_probability: float = field(default=0.0, metadata={"help": "Share of the clips with a transmission."})
    clipping_probability: float = field(
        default=0.0, metadata={"help": "Share of the clips whose mixture is clipped, up to 15 dB below its peak."}
    )
    clean_probability: float = field(
        default=0.0, metadata={"help": "Share of the clips without noise, from which a model learns to keep speech."}
    )
    max_seconds: float = field(default=12.0, metadata={"help": "Longer training clips are cropped at a drawn place."})
    workers: int = field(default=1, metadata={"help": "Processes that decode and mix."})

    calibration_batches: int = field(
        default=0,
        metadata={
            "help": "Batches on which the layer norms in front of experts and routers are standardised before the "
            "training starts: 20 for a pretrained encoder, whose features experts learn from slowly otherwise; 0: off."
        },
    )
    frozen_epochs: int = field(default=0, metadata={"help": "First stage: the encoder is frozen."})
    feature_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the layer outputs of the frozen encoder: 50 x layers x width numbers for a second of "
            "speech. The mixtures of the first stage then repeat after feature_cache_rounds epochs, and only in these "
            "does the encoder run."
        },
    )
    feature_cache_rounds: int = field(
        default=1, metadata={"help": "Epochs with mixtures of their own, each with its share of the folder."}
    )
    feature_cache_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Of the numbers in the folder: float32, bfloat16 or float16; that of mixed_precision if unset."
        },
    )
    epochs: int = field(default=20, metadata={"help": "Second stage: all is trained, but see train_feature_encoder."})
    train_feature_encoder: bool = field(default=False, metadata={"help": "Train the convolutional front end as well."})
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    encoder_learning_rate_factor: float = 0.5
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    schedule: str = field(default="cosine", metadata={"help": "Any schedule of transformers.get_scheduler."})
    max_grad_norm: float = 1.0
    mixed_precision: str = field(default="no", metadata={"help": "no, bf16 or fp16."})
    gradient_checkpointing: bool = False
    average_decay: float = field(
        default=0.0, metadata={"help": "Decay of the exponential average of the weights that is validated; 0: none."}
    )

    lora_rank: int = field(
        default=0, metadata={"help": "Rank of adapters on the encoder of `model`; 0: the encoder itself is trained."}
    )
    lora_alpha: int = field(default=16, metadata={"help": "Adapters count lora_alpha / lora_rank times."})
    lora_dropout: float = 0.0
    lora_train_modules: list[str] = field(
        default_factory=lambda: ["experts", "routers", EMOTION],
        metadata={"help": "What is trained whole, and saved, beside adapters: the fewer, the smaller the result."},
    )

    eval_every: int = field(default=1, metadata={"help": "Epochs between two validations."})
    eval_snr_db: list[float] = field(default_factory=lambda: [-5.0, 10.0], metadata={"help": "SNR range on dev."})
    si_sdr_weight: float = field(
        default=0.05, metadata={"help": "The score of a checkpoint is macro-F1 + si_sdr_weight * SI-SDR gain in dB."}
    )
    patience: int = field(
        default=0, metadata={"help": "Validations without a better score before the stage ends; 0: off."}
    )
    keep_checkpoints: int = 2
    max_steps: int = field(
        default=0,
        metadata={"help": "End the run after that many optimizer steps; a broken-off epoch counts as done. 0: off."},
    )

    def __post_init__(self):
        for name in ("snr_db", "level_db", "speed", "pitch_semitones", "eval_snr_db"):
            low, high = getattr(self, name) if len(getattr(self, name)) == 2 else (math.nan, math.nan)
            self._require(name, low <= high, "two numbers, the lower one first")
        for name in (
            "batch_size",
            "gradient_accumulation_steps",
            "keep_checkpoints",
            "eval_every",
            "shuffle_buffer",
            "feature_cache_rounds",
        ):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        counts = ("workers", "frozen_epochs", "epochs", "patience", "max_steps", "calibration_batches")
        for name in ("seed", *counts, "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        positive = ("learning_rate", "uncertainty_learning_rate", "encoder_learning_rate_factor")
        for name in (*positive, "max_seconds", "max_grad_norm"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a number above 0")
        probabilities = ("rir", "pitch", "transmission", "clipping", "clean")
        for name in (*(f"{drawn}_probability" for drawn in probabilities), "warmup_ratio"):
            self._require(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        self._require("average_decay", 0 <= self.average_decay < 1, "a number from 0 up to, but not, 1")
        self._require("rir_probability", self.rirs or not self.rir_probability, "0, as there are no `rirs`")
        checked_transmissions(self.transmissions)
        is_possible = self.transmissions or not self.transmission_probability
        self._require("transmission_probability", is_possible, "0, as there are no `transmissions`")
        self._require("unlabelled", set(self.unlabelled) <= set(self.speech), f"some of `speech`, {self.speech}")
        self._require("unlabelled", not (self.unlabelled and self.streaming), "none, as speech is streamed")
        self._check_labels()
        choices = {"mixed_precision": PRECISIONS, "task_balancing": TASK_BALANCINGS, "class_weights": CLASS_WEIGHTS}
        schedules = [str(schedule.value) for schedule in SchedulerType]
        for name, valid in {**choices, "sampling": SAMPLINGS, "schedule": schedules}.items():
            self._require(name, getattr(self, name) in valid, f"one of {list(valid)}")
        known = {entry.name for entry in fields(SparseMeritConfig)}
        unknown = sorted(set(self.config) - known)
        self._require("config", not unknown, f"fields of SparseMeritConfig, which {unknown} are not")
        valid_tasks = self.tasks is None or (self.tasks and set(self.tasks) <= set(TASKS))
        self._require("tasks", valid_tasks, f"some of {list(TASKS)}, or none for all")
        starts = {name: getattr(self, name) for name in ("model", "encoder", "wavlm") if getattr(self, name)}
        if len(starts) > 1:
            raise ValueError(f"{starts} are all given; expected one of them: where shall the encoder come from?")
        self._check_balance()
        self._check_feature_cache()
        self._check_descriptors()
        self._check_distillation()
        self._check_adapters()

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"`{name}` is {getattr(self, name)}; expected {expected}.")

    @property
    def label_sources(self) -> dict[str, str]:
        """Each label, in order, and the label of `model` whose classifier row it starts from, if there is one."""
        return {label: self.labels_from.get(label, label) for label in self.labels}

    def _check_labels(self) -> None:
        """Checks the labels, and takes OWN=LABEL apart: `labels` has OWN, `labels_from` {OWN: LABEL}."""
        self._require("labels", all(isinstance(label, str) for label in self.labels), "names")
        parts = [[part.strip() for part in label.split("=")] for label in self.labels]
        named = all(len(part) <= 2 and all(part) for part in parts)
        self._require("labels", named, "names, or OWN=LABEL to start OWN from a LABEL of the `model`")
        mapped = {part[0]: part[1] for part in parts if len(part) == 2}
        names = [part[0] for part in parts]
        self._require("labels", len(set(names)) == len(names) > 0, "distinct names, at least one")
        conflicts = [own for own in mapped if self.labels_from.get(own, mapped[own]) != mapped[own]]
        self._require("labels_from", not conflicts, f"nothing else than `labels` says of {conflicts}")
        self._require("labels_from", set(self.labels_from) <= set(names), f"names in `labels`, {names}")
        self.labels, self.labels_from = names, YamlMapping({**self.labels_from, **mapped})
        if self.labels_from and self.model is None:
            raise ValueError(
                f"`labels` starts {dict(self.labels_from)} from labels of a `model`, but `model` is None: name the "
                "checkpoint to fine-tune, or leave out what follows '='."
            )

    def _check_balance(self) -> None:
        self._require("class_weight_beta", 0 < self.class_weight_beta < 1, "a number between 0 and 1")
        if self.task_balancing == "pcgrad" and self.mixed_precision == "fp16":
            raise ValueError(
                "`task_balancing` is pcgrad and `mixed_precision` fp16, whose scaled gradients it can't project; "
                "expected bf16 or no."
            )
        if self.sampling == "class_balanced" and self.class_weights != "none":
            raise ValueError(
                f"`sampling` is class_balanced and `class_weights` {self.class_weights}, which balance the classes "
                "twice; expected class_weights none."
            )
        self._require("sampling", self.sampling == "natural" or not self.streaming, "natural, as speech is streamed")
        known = {*self.speech, *self.labels, UNLABELLED_NAME}
        valid_weights = set(self.sampling_weights) <= known and all(
            isinstance(weight, int | float) and 0 <= weight < math.inf for weight in self.sampling_weights.values()
        )
        self._require("sampling_weights", valid_weights, f"numbers of at least 0 for some of {sorted(known)}")
        if bool(self.sampling_weights) != (self.sampling == "weighted"):
            raise ValueError(
                f"`sampling` is {self.sampling}, `sampling_weights` {dict(self.sampling_weights)}; expected weights "
                "for sampling weighted, and for no other."
            )

    def _check_feature_cache(self) -> None:
        dtypes = (None, "float32", "bfloat16", "float16")
        self._require("feature_cache_dtype", self.feature_cache_dtype in dtypes, f"one of {list(dtypes)}")
        against = {"streaming": self.streaming, "cleaned_by": self.cleaned_by, "frozen_epochs": self.frozen_epochs}
        if self.feature_cache and (self.streaming or self.cleaned_by or not self.frozen_epochs):
            raise ValueError(
                f"`feature_cache` is {self.feature_cache}, for mixtures that repeat under a frozen encoder: expected "
                f"frozen_epochs above 0, no streaming and no cleaned_by; got {against}."
            )

    def _check_descriptors(self) -> None:
        self._require("descriptor_weight", 0 <= self.descriptor_weight < math.inf, "a finite number of at least 0")
        needed = {"speed": [1, 1], "pitch_semitones": [0, 0], "streaming": False, "task_balancing": "fixed"}
        found = {name: getattr(self, name) for name in needed}
        if self.descriptor_weight and (found != needed or EMOTION not in (self.tasks or TASKS)):
            raise ValueError(
                f"`descriptor_weight` is {self.descriptor_weight}, but the descriptors are those of the speech as it "
                f"is in the dataset, and are told from the features of the emotion: expected {needed} and the task "
                f"emotion; got {found} and {self.tasks or 'all'} tasks."
            )

    def _check_distillation(self) -> None:
        weights = ("distillation_weight", "distillation_logits_weight")
        for name in weights:
            self._require(name, 0 <= getattr(self, name) < math.inf, "a finite number of at least 0")
        self._require("distillation_temperature", 0 < self.distillation_temperature < math.inf, "a number above 0")
        if bool(self.teacher) != any(getattr(self, name) for name in weights):
            found = {name: getattr(self, name) for name in weights}
            raise ValueError(f"`teacher` is {self.teacher} and its weights are {found}; expected both or neither.")
        if bool(self.teacher_layers) != (self.distillation_weight > 0):
            raise ValueError(
                f"`teacher_layers` is {self.teacher_layers} and `distillation_weight` {self.distillation_weight}; "
                "expected layers and a weight above 0, or neither."
            )
        paired = len(self.student_layers) in (0, len(self.teacher_layers))
        self._require("student_layers", paired, f"one layer for each of `teacher_layers`, {self.teacher_layers}")
        lone = {"task_balancing": "fixed", "descriptor_weight": 0}
        found = {name: getattr(self, name) for name in lone}
        if self.teacher and found != lone:
            raise ValueError(f"`teacher` is {self.teacher}: expected {lone} with it; got {found}.")
        if self.distillation_logits_weight and EMOTION not in (self.tasks or TASKS):
            raise ValueError(
                f"`distillation_logits_weight` is {self.distillation_logits_weight}, of the emotion; expected it "
                f"among `tasks`, which are {self.tasks}."
            )

    def _check_adapters(self) -> None:
        known = ["experts", "routers", *TASKS]
        unknown = [name for name in self.lora_train_modules if name not in known]
        if unknown:
            raise ValueError(f"`lora_train_modules` has {unknown}; expected some of {known}.")
        if self.lora_rank < 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                f"`lora_rank`, `lora_dropout` are {self.lora_rank}, {self.lora_dropout}; expected a rank of at least "
                "0 and a dropout from 0 up to, but not, 1."
            )
        if self.lora_rank and (self.model is None or self.train_feature_encoder):
            raise ValueError(
                f"`lora_rank` is {self.lora_rank}: adapters need a `model` to go on and leave its front end alone; "
                f"but `model` is {self.model} and `train_feature_encoder` is {self.train_feature_encoder}."
            )


def parse_settings(arguments: list[str] | None = None) -> TrainingSettings:
    """
    Reads `[CONFIG.yaml] [--field value ...]`. CONFIG.yaml may say `extends: OTHER.yaml`, a path from its own folder:
    what it does not set is as there, mappings such as `config` entry by entry.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file has a field that does not exist or extends itself, or a field is outside its range.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(
        TrainingSettings, description="Trains Sparse MERIT. CONFIG.yaml first, then its overrides."
    )
    parser._option_string_actions["--no_resume"].help = "Refuse an output_dir that holds a checkpoint."
    if arguments and not arguments[0].startswith("-"):
        parser.set_defaults(**_read_yaml(Path(arguments.pop(0))))
    return parser.parse_args_into_dataclasses(arguments)[0]


def _read_yaml(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in extending:
        raise ValueError(f"{path} extends itself, by way of {[str(other) for other in extending]}.")
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    base = values.pop("extends", None)
    known = {entry.name for entry in fields(TrainingSettings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{path} has unknown fields {unknown}; expected some of {sorted(known)}.")
    if base is None:
        return values
    inherited = _read_yaml(path.parent / base, (*extending, path.resolve()))
    return inherited | {name: _overridden(inherited.get(name), value) for name, value in values.items()}


def _overridden(inherited: Any, value: Any) -> Any:
    return {**inherited, **value} if isinstance(inherited, dict) and isinstance(value, dict) else value
