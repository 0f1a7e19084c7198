# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Audio enhancement by one of several structures, on any kind of sound: speech, breath, machines."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .cmgan import CMGAN, MaskedInstanceNorm
from .configuration_audio_enhancer import AudioEnhancerConfig
from .mask_lstm import MaskLSTM
from .spectrogram import Spectrogram, compress, frame_range
from .wave_u_net import OutputConv, WaveUNet

STRUCTURES: dict[str, type[nn.Module]] = {"mask_lstm": MaskLSTM, "wave_u_net": WaveUNet, "cmgan": CMGAN}
QUIETEST = 1e-7  # RMS below which a clip is not amplified further
ENOUGH_DB = 30.0  # SNR beyond which a clip does not contribute to the loss


@dataclass
class AudioEnhancerOutput(ModelOutput):
    """
    Output of [`AudioEnhancerModel`].

    Attributes:
        loss: Scalar, the weighted sum of `losses`; None without a clean waveform.
        losses: {"magnitude", "complex", "waveform", "snr": scalar}.
        enhanced_values: (B, S), in the scale of the input, 0 in the padding.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    enhanced_values: torch.Tensor | None = None


class AudioEnhancerModel(PreTrainedModel):
    """
    Enhances noisy waveforms. Every clip is scaled to an RMS of 1 before the structure and back afterwards, so the
    output follows the level of the input. Outputs do not depend on batching or padding.

    Example:
        >>> import torch
        >>> from modeling_sparse_merit import AudioEnhancerConfig, AudioEnhancerModel
        >>> model = AudioEnhancerModel(AudioEnhancerConfig(structure="wave_u_net", channels=4, depth=3))
        >>> model(torch.randn(1, 16_000)).enhanced_values.shape
        torch.Size([1, 16000])
    """

    config: AudioEnhancerConfig
    config_class = AudioEnhancerConfig
    main_input_name = "input_values"
    accepts_loss_kwargs = False  # `Trainer`: losses are means over a batch

    def __init__(self, config: AudioEnhancerConfig):
        super().__init__(config)
        config.validate_audio_enhancer()  # `from_pretrained` may have changed it
        self.enhancer = STRUCTURES[config.structure](config)
        self.spectrogram = Spectrogram(config.n_fft, config.hop_length, config.n_fft)
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
        if isinstance(module, nn.LSTM):
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, OutputConv):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.ones_(module.weight[:, -1])
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="leaky_relu")
        elif isinstance(module, nn.MultiheadAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.PReLU):
            init.constant_(module.weight, 0.25)
        elif isinstance(module, MaskedInstanceNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        clean_values: torch.Tensor | None = None,
    ) -> AudioEnhancerOutput:
        """
        Args:
            input_values: (B, S) noisy waveform at `config.sampling_rate`, in any scale.
            attention_mask: (B, S), 1 for samples and 0 for padding, which follows them; None for no padding.
            clean_values: (B, S) clean waveform in the scale of `input_values`, for the losses.

        Raises:
            ValueError: A clip has no sample.
        """
        waveform = input_values.float()
        mask = torch.ones_like(waveform) if attention_mask is None else attention_mask.to(waveform.dtype)
        num_samples = mask.sum(-1).long()  # (B,)
        if (num_samples < 1).any():
            raise ValueError(
                "`attention_mask` has a clip without samples; expected at least one. Leave such clips out."
            )
        power = (waveform * mask).square().sum(-1) / num_samples  # (B,)
        scale = power.sqrt().clamp(min=QUIETEST)[:, None]  # (B, 1)
        enhanced = self.enhancer(waveform * mask / scale, num_samples).float() * mask
        if clean_values is None:
            return AudioEnhancerOutput(enhanced_values=enhanced * scale)
        losses = self.losses(enhanced, clean_values.float() * mask / scale, num_samples)
        weights = self.config.loss_weights
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return AudioEnhancerOutput(loss=loss, losses=losses, enhanced_values=enhanced * scale)

    def losses(
        self, enhanced: torch.Tensor, clean: torch.Tensor, num_samples: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """
        Distances of the compressed spectra P and C and of the waveforms p and c (CMGAN, equations 4 to 6), and the
        shortfall of the SNR:

            magnitude = mean (|P|^0.3 - |C|^0.3)^2        complex = mean |P |P|^-0.7 - C |C|^-0.7|^2
            waveform = mean |p - c|                       snr = mean (30 - min(30, SNR in dB))

        over what belongs to a clip. The weights of the configuration choose among them: a Wave-U-Net of the
        publication has `waveform` alone.

        Args:
            enhanced, clean: (B, S), scaled as the input of the structure, 0 in the padding.
            num_samples: (B,) true lengths.

        Returns:
            {name: scalar}; only those with a weight.
        """
        weights = self.config.loss_weights
        losses: dict[str, torch.Tensor] = {}
        if weights["magnitude"] or weights["complex"]:
            losses |= self._spectral_losses(enhanced, clean, num_samples)
        if weights["waveform"]:
            losses["waveform"] = (enhanced - clean).abs().sum() / num_samples.sum()
        if weights["snr"]:
            noise, signal = (enhanced - clean).square().sum(-1), clean.square().sum(-1)  # (B,)
            snr = 10 * torch.log10((signal + 1e-6) / (noise + 1e-6))
            losses["snr"] = (ENOUGH_DB - snr).clamp(min=0).mean()
        return losses

    def _spectral_losses(
        self, enhanced: torch.Tensor, clean: torch.Tensor, num_samples: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        ours, ours_magnitude = compress(self.spectrogram.transform(enhanced, num_samples))  # (B, F, bins)
        target, target_magnitude = compress(self.spectrogram.transform(clean, num_samples))
        valid = frame_range(ours.shape[1], self.spectrogram.num_frames(num_samples))[..., None]  # (B, F, 1)
        count = valid.sum() * ours.shape[-1]
        distance = ours - target
        return {
            "magnitude": ((ours_magnitude - target_magnitude).square() * valid).sum() / count,
            "complex": ((distance.real.square() + distance.imag.square()) * valid).sum() / count,
        }


AudioEnhancerModel.register_for_auto_class("AutoModel")
