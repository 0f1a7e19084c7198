# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Knowledge distillation: a small student learns from a large teacher, a Sparse MERIT checkpoint.

The student receives the noisy mixture, the teacher the clean speech of the same crop. Linear projections of hidden
states of the student imitate hidden states of the teacher, as in DistilHuBERT (Chang et al., ICASSP 2022, arXiv
2110.01900), and the emotion logits of the student imitate those of the teacher (Hinton et al., 2015, arXiv
1503.02531). Neither needs labels. The projections are saved with the run and are not part of the model.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.encoder import SAMPLING_RATE, receptive_field
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from ..models.sparse_merit.processes import shared_count
from ..models.sparse_merit.sources import locate
from ..models.sparse_merit.tasks import EMOTION, TASKS
from .balancing import LearnedWeights
from .lora import TrainedModel, without_adapters
from .settings import TrainingSettings

STATISTICS_BATCHES = 20  # for the mean and the deviation of the teacher's layers
SMALLEST_DEVIATION = 1e-3  # of a dimension that hardly varies
PRIOR_FRAMES = 10  # weight of the overall mean in the mean of a position


class Teacher:
    """
    The frozen teacher.

    Args:
        name: Sparse MERIT checkpoint: a name, a folder or a Hub id.
        student: Configuration of the student.
        layers: Indices of the hidden states to imitate; 0 is the input of the first transformer layer, negative ones
            count from the end.
        device: The device that it runs on.
        labels: Whether the logits of the student's labels are needed.

    Attributes:
        shift: Frame t of the student is nearest to frame t + shift of the teacher.

    Raises:
        ValueError: The teacher lacks a layer or a label, or its frame rate is not that of the student.
    """

    def __init__(
        self, name: str, student: SparseMeritConfig, layers: Sequence[int], device: torch.device, labels: bool = False
    ):
        model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(locate(name))
        self.model = model.to(device).eval().requires_grad_(False)
        self.layers = check_layers("teacher_layers", layers, model.config)
        self.shift = frame_shift(student, model.config)
        self.stride, self.reach = math.prod(model.config.conv_stride), receptive_field(model.config)
        self.classes = _classes(name, student, model.config) if labels else None

    @torch.no_grad()
    def __call__(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor | None]:
        """
        Runs the teacher.

        Args:
            input_values: (B, S), clean speech, as the teacher's feature extractor scales it.
            attention_mask: (B, S), 1 for samples and 0 for padding.

        Returns:
            The hidden states to imitate, each (B, T', D'); the mask of their frames, (B, T'); and the emotion logits
            in the order of the student's labels, (B, classes), or None.
        """
        layer_outputs, frame_mask, *_ = self.model.model.encoder(input_values, attention_mask)
        logits = None
        if self.classes is not None:
            encoder_outputs = (layer_outputs, frame_mask)
            logits = self.model(input_values, attention_mask, tasks=(EMOTION,), encoder_outputs=encoder_outputs).logits
            logits = logits[:, self.classes]
        return [layer_outputs[layer] for layer in self.layers], frame_mask, logits

    def nearest_frames(self, num_frames: int, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        The teacher frame that is nearest to each frame of the student; beyond the last one, the last one.

        Args:
            num_frames: T, frames of the student.
            attention_mask: (B, S), 1 for samples and 0 for padding.

        Returns:
            (B, T) indices.
        """
        lengths = (attention_mask.sum(-1) - self.reach) // self.stride + 1  # (B,)
        frames = torch.arange(num_frames, device=attention_mask.device) + self.shift
        return torch.minimum(frames, lengths[:, None] - 1).clamp(min=0)  # (B, num_frames)


class LayerImitation(nn.Module):
    """
    A linear projection of a hidden state of the student, and the statistics of the teacher's hidden state that it
    imitates.

    Dimensions of a teacher have uneven scales, and those of Whisper encode the position in the clip, which a student
    with relative positions can't know. So a target is standardised by the mean at its position and the standard
    deviation from these means.

    Args:
        student_width: D, the width of the student.
        teacher_width: D', the width of the teacher.
        num_positions: P, the frames of the longest clip; later frames share the mean of the last one.
    """

    def __init__(self, student_width: int, teacher_width: int, num_positions: int):
        super().__init__()
        self.projection = nn.Linear(student_width, teacher_width)
        self.mean: torch.Tensor
        self.deviation: torch.Tensor
        self.register_buffer("mean", torch.zeros(num_positions, teacher_width))
        self.register_buffer("deviation", torch.ones(teacher_width))

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, nearest: torch.Tensor, frame_mask: torch.Tensor
    ) -> torch.Tensor:
        """
        The loss of one pair of hidden states.

        Args:
            student: (B, T, D) hidden state.
            teacher: (B, T', D') hidden state.
            nearest: (B, T), the teacher frame that each frame of the student imitates.
            frame_mask: (B, T), true for frames of the student that are not padding.

        Returns:
            [`imitation_loss`], a scalar in fp32.
        """
        standardised = self.standardised(teacher)
        targets = standardised.gather(1, nearest[..., None].expand(-1, -1, teacher.shape[-1]))  # (B, T, D')
        return imitation_loss(self.projection(student), targets, frame_mask)

    def standardised(self, states: torch.Tensor) -> torch.Tensor:
        """Standardises a hidden state of the teacher: (B, T', D') -> (B, T', D') in fp32."""
        positions = torch.arange(states.shape[1], device=states.device).clamp(max=len(self.mean) - 1)
        return (states.float() - self.mean[positions]) / self.deviation

    @torch.no_grad()
    def set_statistics(self, counts: torch.Tensor, totals: torch.Tensor, squares: torch.Tensor) -> None:
        """
        Sets the means and the standard deviation from sums over frames. The overall mean enters the mean of a position
        with the weight of 10 frames.

        Args:
            counts: (P, 1), the number of frames at each position.
            totals: (P, D'), their sums.
            squares: (D',), the sum of their squares over all positions.
        """
        overall = totals.sum(0) / counts.sum()  # (D',)
        mean = (totals + PRIOR_FRAMES * overall) / (counts + PRIOR_FRAMES)  # (P, D')
        deviations = squares - (2 * mean * totals - counts * mean.square()).sum(0)  # (D',), squared
        self.mean.copy_(mean)
        self.deviation.copy_((deviations / counts.sum()).clamp(min=SMALLEST_DEVIATION**2).sqrt())


class LayerImitations(nn.ModuleList):
    """A [`LayerImitation`] for each pair of layers."""

    def forward(
        self,
        student: Sequence[torch.Tensor],
        teacher: Sequence[torch.Tensor],
        nearest: torch.Tensor,
        frame_mask: torch.Tensor,
    ) -> torch.Tensor:
        """
        The mean of the losses of all pairs.

        Args:
            student: Hidden states of the student, each (B, T, D).
            teacher: Hidden states of the teacher, each (B, T', D').
            nearest, frame_mask: As for [`LayerImitation`].

        Returns:
            A scalar in fp32.
        """
        pairs = zip(self, student, teacher, strict=True)
        return torch.stack([pair(own, target, nearest, frame_mask) for pair, own, target in pairs]).mean()


def imitation_loss(predicted: torch.Tensor, targets: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
    """
    L1 distance and cosine similarity (arXiv 2110.01900, equation 1), averaged over the frames of the whole batch:

        1/n * sum_(frames) 1/D * |predicted - target|_1 - log sigmoid(cos(predicted, target))

    Args:
        predicted, targets: (B, T, D).
        frame_mask: (B, T), true for the n frames that are not padding.

    Returns:
        A scalar in fp32; 0 if there are no such frames.
    """
    predicted, targets = predicted.float(), targets.float()
    distance = (predicted - targets).abs().mean(-1)  # (B, T)
    losses = distance - F.logsigmoid(F.cosine_similarity(predicted, targets, dim=-1))
    return losses.where(frame_mask, 0.0).sum() / shared_count(frame_mask.sum())


def logits_loss(logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """
    Divergence of the student's classes from the teacher's at a temperature t (arXiv 1503.02531, section 2), averaged
    over the clips. The factor t^2 makes the size of the gradient independent of the temperature:

        t^2 * KL(softmax(teacher / t) || softmax(student / t))

    Args:
        logits, teacher_logits: (B, classes).
        temperature: t; a higher one gives unlikely classes more weight.

    Returns:
        A scalar in fp32.
    """
    student, teacher = ((each.float() / temperature).log_softmax(-1) for each in (logits, teacher_logits))
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return temperature**2 * divergence / shared_count(student.new_tensor(len(student)))


class DistillationObjective(LearnedWeights):
    """
    `teacher`: the fixed sum of the tasks' losses, plus `distillation_weight` times the loss of the layers and
    `distillation_logits_weight` times that of the emotion logits.

    Args:
        settings: Settings of the run.
        accelerator: Has the device and the precision of both models.
        model: The student. Batches also contain `teacher_values`, (B, S), the clean speech in the scale of the
            teacher.

    Raises:
        ValueError: Teacher and student do not fit.
    """

    def __init__(self, settings: TrainingSettings, accelerator: Accelerator, model: TrainedModel):
        assert settings.teacher is not None  # `build_objective`
        config, layers = without_adapters(model).config, settings.teacher_layers
        self.weights = {
            "distillation": settings.distillation_weight,
            "distillation_logits": settings.distillation_logits_weight,
        }
        self.temperature = settings.distillation_temperature
        needs_labels = settings.distillation_logits_weight > 0
        self.teacher = Teacher(settings.teacher, config, layers, accelerator.device, needs_labels)
        self.student_layers = check_layers("student_layers", settings.student_layers or [-1] * len(layers), config)
        self.stride, self.reach = math.prod(config.conv_stride), receptive_field(config)
        num_positions = int(settings.max_seconds * SAMPLING_RATE) // self.teacher.stride + 1
        sizes = (config.hidden_size, self.teacher.model.config.hidden_size, num_positions)
        self.pairs = [LayerImitation(*sizes) for _ in layers]
        super().__init__(accelerator, model, LayerImitations(self.pairs))

    @torch.no_grad()
    def calibrate(self, loader: Iterable[dict[str, Any]]) -> None:
        """Measures the statistics of the teacher's hidden states on the first batches of all processes."""
        if not self.teacher.layers:
            return
        empty = torch.zeros_like(self.pairs[0].mean, dtype=torch.float64)  # (P, D')
        counts, totals = empty[:, :1].clone(), [empty.clone() for _ in self.pairs]
        squares = [empty[0].clone() for _ in self.pairs]
        for batch in islice(loader, STATISTICS_BATCHES):
            states, frame_mask, _ = self._taught(batch["teacher_values"], batch["attention_mask"])
            positions = frame_mask.nonzero()[:, 1].clamp(max=len(empty) - 1)  # (n,)
            counts.index_add_(0, positions, counts.new_ones(len(positions), 1))
            for outputs, total, square in zip(states, totals, squares, strict=True):
                frames = outputs[frame_mask].double()  # (B, T', D') -> (n, D')
                total.index_add_(0, positions, frames)
                square += frames.square().sum(0)
        counts, totals, squares = self.accelerator.reduce((counts, totals, squares), "sum")
        for pair, total, square in zip(self.pairs, totals, squares, strict=True):
            pair.set_statistics(counts, total, square)

    def through(self, model: nn.Module) -> Any:
        return partial(self._forward, model)

    def _forward(self, model: nn.Module, teacher_values: torch.Tensor, **batch: Any) -> Any:
        states, _, teacher_logits = self._taught(teacher_values, batch["attention_mask"])
        outputs = model(**batch, output_hidden_states=self.student_layers)
        losses = {}
        if states:
            own = [outputs.hidden_states[layer] for layer in self.student_layers]
            nearest = self.teacher.nearest_frames(own[0].shape[1], batch["attention_mask"])
            losses["distillation"] = self.prepared(own, states, nearest, self._frame_mask(nearest, batch))
        if teacher_logits is not None:
            losses["distillation_logits"] = logits_loss(outputs.logits, teacher_logits, self.temperature)
        outputs.loss = outputs.loss + sum(self.weights[name] * loss for name, loss in losses.items())
        outputs.losses.update(losses)
        return outputs

    def _taught(self, values: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        with self.accelerator.autocast():
            return self.teacher(values, attention_mask)

    def _frame_mask(self, nearest: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        """The frames of the student that are not padding: (B, T)."""
        lengths = (batch["attention_mask"].sum(-1, keepdim=True) - self.reach) // self.stride + 1  # (B, 1)
        return torch.arange(nearest.shape[1], device=nearest.device) < lengths


def frame_shift(student: SparseMeritConfig, teacher: SparseMeritConfig) -> int:
    """
    The offset from a frame of the student to the nearest frame of the teacher (the earlier of two), in frames.

    Args:
        student, teacher: Their configurations.

    Raises:
        ValueError: Their frame rates differ.
    """
    strides = [math.prod(config.conv_stride) for config in (student, teacher)]
    if strides[0] != strides[1]:
        raise ValueError(
            f"The student has an encoder frame every {strides[0]} samples and the `teacher` every {strides[1]}; "
            "expected the same: change `conv_stride` of the student, whose product this is, or the teacher."
        )
    difference = _doubled_centre(student) - _doubled_centre(teacher)
    return -((strides[0] - difference) // (2 * strides[0]))  # rounded half down


def _doubled_centre(config: SparseMeritConfig) -> int:
    """Twice the sample at the centre of the first frame, a whole number; for Whisper it is sample 0."""
    return 0 if config.feature_encoder == "whisper" else receptive_field(config)


def check_layers(setting: str, layers: Sequence[int], config: SparseMeritConfig) -> list[int]:
    """
    Indices of hidden states without negative ones.

    Args:
        setting: The setting that names them.
        layers: Indices from -L to L - 1.
        config: Configuration of the model, which has L hidden states.

    Raises:
        ValueError: There is no such hidden state.
    """
    count = config.num_layer_outputs
    if unknown := [layer for layer in layers if not -count <= layer < count]:
        raise ValueError(
            f"`{setting}` has {unknown}; expected 0 (the input of the first layer) to {count - 1} (the output of the "
            f"last of {config.num_hidden_layers} layers), or {-count} to -1 from the end."
        )
    return [layer % count for layer in layers]


def _classes(name: str, student: SparseMeritConfig, teacher: SparseMeritConfig) -> list[int]:
    """
    For each label of the student, in order, its index in the logits of the teacher.

    Raises:
        ValueError: The teacher has no emotion task, or lacks a label.
    """
    labels: list[str] = TASKS[EMOTION].describe(student)["labels"]
    known: list[str] = TASKS[EMOTION].describe(teacher)["labels"] if EMOTION in teacher.tasks else []
    if EMOTION not in student.tasks or not set(labels) <= set(known):
        raise ValueError(
            "`distillation_logits_weight` needs the task emotion in both models, and a teacher with all labels of the "
            f"student. The student has the tasks {student.tasks} and the labels {labels}; the teacher {name} has the "
            f"tasks {teacher.tasks} and the labels {known}. Choose another teacher or other `labels`, or set the "
            "weight to 0."
        )
    return [known.index(label) for label in labels]
