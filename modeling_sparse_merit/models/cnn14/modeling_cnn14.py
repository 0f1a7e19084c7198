# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""CNN14 of PANNs (arXiv 1912.10211): log-mel spectrogram, blocks of two convolutions, pooling, classifier."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_cnn14 import Cnn14Config

UNLABELLED = -100
POWER_FLOOR = 1e-10


class LogMel(nn.Module):
    """
    Log-mel spectrogram of clips that are repeated or cropped to one length.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: Cnn14Config):
        super().__init__()
        self.n_fft, self.hop_length = config.n_fft, config.hop_length
        self.length = round(config.seconds * config.sampling_rate)
        self.fade = round(config.fade_seconds * config.sampling_rate)
        self.num_mel_bins, self.sampling_rate = config.num_mel_bins, config.sampling_rate
        self.frequencies = float(config.min_frequency), float(config.max_frequency)
        self.filters = nn.Buffer(self.make_filters())  # saved, since models are built without memory first

    def make_filters(self) -> torch.Tensor:
        """Mel filters (bins, bands) of area 1."""
        bins = self.n_fft // 2 + 1
        filters = mel_filter_bank(
            bins, self.num_mel_bins, *self.frequencies, self.sampling_rate, norm="slaney", mel_scale="slaney"
        )
        return torch.from_numpy(filters).float()

    def forward(self, waveform: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveform: (B, S), padded.
            num_samples: (B,) true lengths.

        Returns:
            (B, F, bands), in dB.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            clips = repeated(waveform.float(), num_samples, self.length, self.fade)
            window = torch.hann_window(self.n_fft, device=waveform.device)
            spectrum = torch.stft(clips, self.n_fft, self.hop_length, window=window, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()  # (B, bins, F)
            mel = power.transpose(1, 2) @ self.filters.float()  # (B, F, bands)
            return 10 * torch.log10(mel.clamp(min=POWER_FLOOR))


def repeated(waveform: torch.Tensor, num_samples: torch.Tensor, length: int, fade: int) -> torch.Tensor:
    """
    Clips, cropped to a length or repeated up to it. At each joint of a repeated clip its end fades out, and its start
    fades in, linearly.

    Args:
        waveform: (B, S), padded.
        num_samples: (B,) true lengths.
        length: Number of samples of the result.
        fade: Samples of each fade.

    Returns:
        (B, length).
    """
    size = num_samples.clamp(max=length)[:, None]  # (B, 1)
    place = torch.arange(length, device=waveform.device)  # (length,)
    inner = place % size  # (B, length)
    clips = waveform.gather(1, inner)
    if not fade:
        return clips
    since_joint = torch.where(place >= size, inner + 0.5, float("inf"))  # samples since the last joint
    until_joint = torch.where(size < length, size - inner - 0.5, float("inf"))
    nearest = torch.minimum(since_joint, until_joint)
    return clips * (nearest / fade).clamp(max=1)


class SpecAugment(nn.Module):
    """
    Replaces random bands of frames and of mel bins by the mean of their clip, in training alone.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: Cnn14Config):
        super().__init__()
        self.masks = (config.time_masks, config.time_width), (config.frequency_masks, config.frequency_width)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """
        Args:
            mel: (B, F, bands).
        """
        if not self.training:
            return mel
        mean = mel.mean((1, 2), keepdim=True)
        for axis, (count, widest) in enumerate(self.masks, 1):
            for _ in range(count):
                mel = torch.where(self._band(mel, axis, widest), mean, mel)
        return mel

    def _band(self, mel: torch.Tensor, axis: int, widest: int) -> torch.Tensor:
        """True in a random band of each clip: (B, F, 1) or (B, 1, bands)."""
        size = mel.shape[axis]
        width = torch.rand(len(mel), 1, device=mel.device) * min(widest, size)
        start = torch.rand(len(mel), 1, device=mel.device) * (size - width)
        place = torch.arange(size, device=mel.device) + 0.5
        return ((place >= start) & (place < start + width)).unsqueeze(3 - axis)


class ConvBlock(nn.Module):
    """
    Two convolutions of 3 x 3 with batch norm and ReLU.

    Args:
        inputs, outputs: Numbers of channels.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first_conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second_conv = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, C, F, bands) -> (B, C', F, bands)."""
        hidden = self.first_norm(self.first_conv(hidden)).relu()
        return self.second_norm(self.second_conv(hidden)).relu()


class Cnn14ForAudioClassification(PreTrainedModel):
    """
    CNN14 with its log-mel spectrogram inside: it takes waveforms at 16 kHz. In training it applies SpecAugment and
    mixup, for which labels may be soft. Outputs do not depend on batching or padding.

    Example:
        >>> import torch
        >>> from modeling_sparse_merit import Cnn14Config, Cnn14ForAudioClassification
        >>> config = Cnn14Config(channels=[4, 8], hidden_size=8, id2label={0: "normal", 1: "crackle"})
        >>> Cnn14ForAudioClassification(config).eval()(torch.randn(3, 16_000)).logits.shape
        torch.Size([3, 2])
    """

    config: Cnn14Config
    config_class = Cnn14Config
    main_input_name = "input_values"
    accepts_loss_kwargs = False  # `Trainer`: losses are means over a batch

    def __init__(self, config: Cnn14Config):
        super().__init__(config)
        config.validate_cnn14()  # `from_pretrained` may have changed it
        self.log_mel, self.spec_augment = LogMel(config), SpecAugment(config)
        self.input_norm = nn.BatchNorm1d(config.num_mel_bins)
        self.blocks = nn.ModuleList(
            ConvBlock(inputs, outputs) for inputs, outputs in zip([1, *config.channels], config.channels, strict=False)
        )
        self.dense = nn.Linear(config.channels[-1], config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label or ()))
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As in `PreTrainedModel`, from safetensors unless `use_safetensors=False` is passed.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            args, kwargs: As in `PreTrainedModel`.
        """
        kwargs.setdefault("use_safetensors", True)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, LogMel):
            init.copy_(module.filters, module.make_filters())

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_values: (B, S) waveform at `config.sampling_rate`, full scale +-1.
            attention_mask: (B, S), 1 for samples and 0 for padding, which follows them; None for no padding.
            labels: (B,) classes, -100 for a clip without one; or (B, classes) probabilities.

        Raises:
            ValueError: A clip has no sample.
        """
        mask = torch.ones_like(input_values) if attention_mask is None else attention_mask
        num_samples = mask.sum(-1).long()  # (B,)
        if (num_samples < 1).any():
            raise ValueError(
                "`attention_mask` has a clip without samples; expected at least one. Leave such clips out."
            )
        mel = self.input_norm(self.log_mel(input_values, num_samples).transpose(1, 2)).transpose(1, 2)
        mel = self.spec_augment(mel)  # (B, F, bands)
        targets = None if labels is None else soft_labels(labels, self.classifier.out_features)
        # CODEPATH: 0 in checkpoints that are trained without mixup
        if self.training and targets is not None and self.config.mixup_alpha:
            mel, targets = mixup(mel, targets, self.config.mixup_alpha)
        logits = self.classify(mel)
        loss = None if targets is None else soft_cross_entropy(logits, targets, self.config.class_weights)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def classify(self, mel: torch.Tensor) -> torch.Tensor:
        """Normalised log-mel spectrograms (B, F, bands) to logits (B, classes)."""
        hidden, dropout = mel[:, None].to(self.dense.weight.dtype), self.config.conv_dropout  # (B, 1, F, bands)
        for place, block in enumerate(self.blocks, 1):
            hidden = block(hidden)
            if place < len(self.blocks):
                hidden = F.avg_pool2d(hidden, 2)
            hidden = F.dropout(hidden, dropout, self.training)
        hidden = hidden.mean(3)  # over bands: (B, C, F)
        hidden = hidden.amax(2) + hidden.mean(2)  # (B, C)
        hidden = F.dropout(hidden, self.config.head_dropout, self.training)
        hidden = F.dropout(F.relu(self.dense(hidden)), self.config.head_dropout, self.training)
        return self.classifier(hidden)


def soft_labels(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """
    Labels as probabilities.

    Args:
        labels: (B,) classes, -100 for none; or (B, classes) probabilities, which are returned.
        num_labels: Number of classes.

    Returns:
        (B, classes) in fp32; all 0 for a clip without a label.

    Raises:
        ValueError: The labels have another shape.
    """
    if labels.ndim == 2 and labels.shape[1] == num_labels:
        return labels.float()
    if labels.ndim != 1:
        raise ValueError(
            f"`labels` has the shape {tuple(labels.shape)}; expected (B,) classes or (B, {num_labels}) probabilities."
        )
    known = labels != UNLABELLED
    return F.one_hot(labels.where(known, 0), num_labels).float() * known[:, None]


def mixup(mel: torch.Tensor, targets: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mixes each clip with another one of the batch: `share * x + (1 - share) * other`, the same for the targets, with a
    share of each clip from Beta(alpha, alpha) (arXiv 1710.09412). A clip without a label stays as it is, and is not
    mixed into others.

    Args:
        mel: (B, F, bands).
        targets: (B, classes) probabilities.
        alpha: Parameter of the Beta distribution.
    """
    share = torch.distributions.Beta(alpha, alpha).sample((len(mel),)).to(mel.device)  # (B,)
    order = torch.randperm(len(mel), device=mel.device)
    labelled = targets.sum(1) > 0
    share = torch.where(labelled & labelled[order], share, 1.0)
    mixed = share[:, None, None] * mel + (1 - share[:, None, None]) * mel[order]
    return mixed, share[:, None] * targets + (1 - share[:, None]) * targets[order]


def soft_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, class_weights: list[float] | None = None
) -> torch.Tensor:
    """
    Cross entropy with soft labels, `- sum w_c y_c log p_c / sum w_c y_c`, which is that of `torch` for hard ones.

    Args:
        logits: (B, classes).
        targets: (B, classes) probabilities; all 0 for a clip that does not count.
        class_weights: Weight of each class; 1 by default.

    Returns:
        A scalar in fp32; 0 if no clip counts.
    """
    weighted = targets if class_weights is None else targets * targets.new_tensor(class_weights)
    losses = -(weighted * logits.float().log_softmax(-1)).sum()
    return losses / weighted.sum().clamp(min=1e-9)


Cnn14ForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
