# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What a training run is made of: a YAML file, any field of which the command line can override."""

import math
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, SchedulerType

from ..configuration_sparse_merit import TASKS, SparseMeritConfig

PRECISIONS = ("no", "bf16", "fp16")
WHOLE_MODULES = ("experts", "routers", "emotion", "enhancement")


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
        default=True, metadata={"help": "Go on from the newest checkpoint in output_dir; else it may not hold one."}
    )
    seed: int = 0

    model: str | None = field(
        default=None, metadata={"help": "Sparse MERIT checkpoint to fine-tune (folder or Hub id); else see wavlm."}
    )
    wavlm: str | None = field(
        default=None,
        metadata={"help": "WavLM checkpoint for the encoder; without it the encoder starts from scratch."},
    )
    config: YamlMapping = field(
        default_factory=YamlMapping,
        metadata={"help": "Fields of SparseMeritConfig that differ from model, wavlm or default: {num_experts: 4}."},
    )
    tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "What this run teaches, all of the model's tasks by default. The other heads stay as they are."
        },
    )
    labels: list[str] = field(default_factory=lambda: ["angry", "sad", "happy", "neutral"])
    normalization: str = field(default="recording", metadata={"help": "Scale of the input: recording or corpus."})
    corpus_mean: float | None = None
    corpus_std: float | None = None
    spectral_front_end: bool = field(
        default=False,
        metadata={"help": "Start a fresh first convolution as a bank of windowed sines (see spectral.py)."},
    )

    speech: list[str] = field(
        default_factory=list,
        metadata={"help": "Speech tables, here or on the Hub (owner/name); splits 'train' and 'dev' are used."},
    )
    noise: list[str] = field(
        default_factory=list,
        metadata={"help": "Noise tables, here or on the Hub; splits 'train' and 'dev' are used."},
    )
    rooms: list[str] = field(default_factory=list, metadata={"help": "Tables of room impulse responses, if any."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training speech from the Hub while training, instead of downloading it first. Batches "
            "then hold clips of any length."
        },
    )
    shuffle_buffer: int = field(
        default=1000, metadata={"help": "When streaming: clips of each table in memory, among which one is drawn."}
    )
    snr_db: list[float] = field(default_factory=lambda: [5.0, 5.0], metadata={"help": "Range of the drawn SNR in dB."})
    level_db: list[float] = field(default_factory=lambda: [-35.0, -15.0], metadata={"help": "Speech level, dBFS RMS."})
    speed: list[float] = field(default_factory=lambda: [1.0, 1.0], metadata={"help": "Range of speed factors."})
    room_probability: float = 0.0
    max_seconds: float = field(default=12.0, metadata={"help": "Longer training clips are cropped at a drawn place."})
    workers: int = field(default=1, metadata={"help": "Processes that decode and mix."})

    frozen_epochs: int = field(default=0, metadata={"help": "First stage: the encoder is frozen."})
    epochs: int = field(default=20, metadata={"help": "Second stage: all is trained, but see train_front_end."})
    train_front_end: bool = field(default=False, metadata={"help": "Train the convolutional front end as well."})
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
        default_factory=lambda: ["experts", "routers", "emotion"],
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
        for name in ("snr_db", "level_db", "speed", "eval_snr_db"):
            low, high = getattr(self, name) if len(getattr(self, name)) == 2 else (math.nan, math.nan)
            self._require(name, low <= high, "two numbers, the lower one first")
        for name in ("batch_size", "gradient_accumulation_steps", "keep_checkpoints", "eval_every", "shuffle_buffer"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("seed", "workers", "frozen_epochs", "epochs", "patience", "max_steps", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("learning_rate", "encoder_learning_rate_factor", "max_seconds", "max_grad_norm"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a number above 0")
        for name in ("room_probability", "warmup_ratio"):
            self._require(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        self._require("average_decay", 0 <= self.average_decay < 1, "a number from 0 up to, but not, 1")
        self._require("room_probability", self.rooms or not self.room_probability, "0, as there are no `rooms`")
        self._require("labels", len(set(self.labels)) == len(self.labels) > 0, "distinct names, at least one")
        self._require("mixed_precision", self.mixed_precision in PRECISIONS, f"one of {PRECISIONS}")
        self._require(
            "schedule", self.schedule in set(SchedulerType), f"one of {[str(s.value) for s in SchedulerType]}"
        )
        known = {entry.name for entry in fields(SparseMeritConfig)}
        unknown = sorted(set(self.config) - known)
        self._require("config", not unknown, f"fields of SparseMeritConfig, which {unknown} are not")
        valid_tasks = self.tasks is None or (self.tasks and set(self.tasks) <= set(TASKS))
        self._require("tasks", valid_tasks, f"some of {list(TASKS)}, or none for all")
        if self.model and self.wavlm:
            raise ValueError("`model` and `wavlm` are both given; expected one: where shall the encoder come from?")
        self._check_adapters()

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"`{name}` is {getattr(self, name)}; expected {expected}.")

    def _check_adapters(self) -> None:
        unknown = [name for name in self.lora_train_modules if name not in WHOLE_MODULES]
        if unknown:
            raise ValueError(f"`lora_train_modules` has {unknown}; expected some of {list(WHOLE_MODULES)}.")
        if self.lora_rank < 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                f"`lora_rank`, `lora_dropout` are {self.lora_rank}, {self.lora_dropout}; expected a rank of at least "
                "0 and a dropout from 0 up to, but not, 1."
            )
        if self.lora_rank and (self.model is None or self.train_front_end):
            raise ValueError(
                f"`lora_rank` is {self.lora_rank}: adapters need a `model` to go on and leave its front end alone; "
                f"but `model` is {self.model} and `train_front_end` is {self.train_front_end}."
            )


def parse_settings(arguments: list[str] | None = None) -> TrainingSettings:
    """
    Reads `[CONFIG.yaml] [--field value ...]`.

    Raises:
        ValueError: The file has a field that does not exist, or a field is outside its range.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(
        TrainingSettings, description="Trains Sparse MERIT. CONFIG.yaml first, then its overrides."
    )
    if arguments and not arguments[0].startswith("-"):
        parser.set_defaults(**_read_yaml(Path(arguments.pop(0))))
    return parser.parse_args_into_dataclasses(arguments)[0]


def _read_yaml(path: Path) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    known = {entry.name for entry in fields(TrainingSettings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{path} has unknown fields {unknown}; expected some of {sorted(known)}.")
    return values
