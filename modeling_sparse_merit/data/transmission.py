# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Simulated transmissions: the effect of telephone channels and codecs on speech at 16 kHz.

A transmission has a linear part, which limits the band, and optionally a codec, which adds distortion, and the loss of
packets. `apply` does all; `band_limit` applies only the linear part and gives the target of enhancement: a model can
remove distortion and fill gaps, but not recover a band that was not transmitted. Both keep the number of samples and
the alignment, to a fraction of a sample.
"""

import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile
from scipy.signal import firwin, oaconvolve

from ..models.sparse_merit.audio import SAMPLING_RATE, resample

TELEPHONE_BAND = (300.0, 3400.0)  # Hz, of a telephone channel (ITU-T G.712)
FILTER_TAPS = 255  # odd: a delay of whole samples; edges of about 100 Hz at 8 kHz
CODEC_PEAK = 0.7  # codecs saturate, and some overshoot
PACKET_SECONDS = 0.02  # the usual packet of speech (RFC 3551)


@dataclass(frozen=True)
class Codec:
    """A codec of libsndfile.

    Attributes:
        file_format: the container as `soundfile.available_formats` names it, such as "WAV".
        subtype: the codec as `soundfile.available_subtypes` names it, such as "ULAW".
        options: further arguments of `soundfile.write`, such as `compression_level`.
    """

    file_format: str
    subtype: str
    options: dict[str, Any] = field(default_factory=dict)

    def apply(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Encodes and decodes a waveform.

        Args:
            waveform: float32 (samples,); it may exceed full scale, as it is scaled for the codec and back.
            sampling_rate: in Hz, one that the codec supports.

        Returns:
            float32 (samples,). libsndfile compensates the delay of codecs; GSM and MP3 may add a frame at the end.

        Raises:
            ValueError, soundfile.LibsndfileError: this libsndfile lacks the codec.
        """
        gain = np.float32(max(1.0, np.abs(waveform).max() / CODEC_PEAK))
        file = io.BytesIO()
        soundfile.write(
            file, waveform / gain, sampling_rate, format=self.file_format, subtype=self.subtype, **self.options
        )
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float32")
        return _of_length(decoded, len(waveform)) * gain


@dataclass(frozen=True)
class PacketLoss:
    """Packets of 20 ms that do not arrive, each independently of the others.

    Attributes:
        share: probability that a packet is lost.
        is_repeated: the last packet that arrived is played in place of a lost one; False plays silence.
    """

    share: float
    is_repeated: bool = False

    def apply(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """The waveform as it is played. Which packets are lost depends on the waveform alone, so that it is the same
        in every run.

        Args:
            waveform: float32 (samples,).
            sampling_rate: in Hz.
        """
        size = round(PACKET_SECONDS * sampling_rate)
        packets = _of_length(waveform, -(-len(waveform) // size) * size).reshape(-1, size)  # (packets, size)
        draws = np.random.default_rng(zlib.crc32(waveform.tobytes())).random(len(packets))
        played, last = [], np.zeros_like(waveform, shape=size)
        for packet, draw in zip(packets, draws, strict=True):
            last = packet if draw >= self.share else last if self.is_repeated else np.zeros_like(packet)
            played.append(last)
        return np.concatenate([*played, waveform[:0]])[: len(waveform)]  # also of an empty waveform


@dataclass(frozen=True)
class Transmission:
    """A simulated transmission of speech.

    Attributes:
        sampling_rate: sampling rate of the channel in Hz; frequencies below half of it are kept.
        band: lowest and highest frequency in Hz that the channel keeps; None for all below half the sampling rate.
        codec: None for a channel without one.
        loss: None for a channel on which everything arrives.
    """

    sampling_rate: int
    band: tuple[float, float] | None = None
    codec: Codec | None = None
    loss: PacketLoss | None = None

    def apply(self, waveform: np.ndarray) -> np.ndarray:
        """Band limit, codec and loss: float32 (samples,) at 16 kHz to the same."""
        sent = self._sent(waveform)
        for distortion in (self.codec, self.loss):
            if distortion is not None:
                sent = distortion.apply(sent, self.sampling_rate)
        return self._received(sent, waveform)

    def band_limit(self, waveform: np.ndarray) -> np.ndarray:
        """The band limit alone, which is linear and has no delay: float32 (samples,) at 16 kHz to the same."""
        return self._received(self._sent(waveform), waveform)

    def _sent(self, waveform: np.ndarray) -> np.ndarray:
        """The waveform at the rate of the channel and in its band, (channel samples,)."""
        sent = resample(waveform, SAMPLING_RATE, self.sampling_rate)
        if self.band is None:
            return sent
        taps = firwin(FILTER_TAPS, self.band, pass_zero=False, fs=self.sampling_rate)  # (taps,)
        return oaconvolve(sent, taps.astype(np.float32), mode="same")

    def _received(self, sent: np.ndarray, waveform: np.ndarray) -> np.ndarray:
        """(channel samples,) back at 16 kHz, as long as the waveform."""
        return _of_length(resample(sent, self.sampling_rate, SAMPLING_RATE), len(waveform))


# Bit rates are those of speech. Opus ends at half the sampling rate; MP3 cuts off near 7.3 kHz by itself.
TRANSMISSIONS = {
    "narrowband": Transmission(8_000),
    "telephone": Transmission(8_000, TELEPHONE_BAND),
    "band_5500": Transmission(11_025),
    "band_6000": Transmission(12_000),
    "mu_law": Transmission(8_000, TELEPHONE_BAND, Codec("WAV", "ULAW")),  # G.711, 64 kbit/s
    "a_law": Transmission(8_000, TELEPHONE_BAND, Codec("WAV", "ALAW")),  # G.711, 64 kbit/s
    "gsm": Transmission(8_000, None, Codec("WAV", "GSM610")),  # GSM 06.10 full rate, 13 kbit/s
    "opus_narrowband": Transmission(8_000, None, Codec("OGG", "OPUS", {"compression_level": 0.98})),  # 11 kbit/s
    "opus_wideband": Transmission(16_000, None, Codec("OGG", "OPUS", {"compression_level": 0.96})),  # 16 kbit/s
    "mp3": Transmission(
        16_000, None, Codec("MP3", "MPEG_LAYER_III", {"compression_level": 0.9, "bitrate_mode": "VARIABLE"})
    ),  # 25 kbit/s; a file of constant rate may lack the header that states the delay
    # G.711 over the internet: 2 or 10 % of the packets are lost, and played as silence or as the packet before
    "packet_loss_2": Transmission(8_000, TELEPHONE_BAND, Codec("WAV", "ULAW"), PacketLoss(0.02)),
    "packet_loss_10": Transmission(8_000, TELEPHONE_BAND, Codec("WAV", "ULAW"), PacketLoss(0.1)),
    "packet_loss_2_repeated": Transmission(8_000, TELEPHONE_BAND, Codec("WAV", "ULAW"), PacketLoss(0.02, True)),
    "packet_loss_10_repeated": Transmission(8_000, TELEPHONE_BAND, Codec("WAV", "ULAW"), PacketLoss(0.1, True)),
}
"""Every transmission by its name."""


def checked_transmissions(names: Iterable[str], setting: str = "transmissions") -> tuple[str, ...]:
    """Names of transmissions, each once.

    Args:
        names: the names to check.
        setting: name of the setting in error messages.

    Raises:
        ValueError: a name is unknown or repeated.
    """
    names = tuple(names)
    if len(set(names)) < len(names) or not set(names) <= set(TRANSMISSIONS):
        raise ValueError(f"`{setting}` is {list(names)}; expected some of {list(TRANSMISSIONS)}, each once.")
    return names


def _of_length(waveform: np.ndarray, length: int) -> np.ndarray:
    """The first `length` samples, with zeros for those that are missing."""
    return np.pad(waveform[:length], (0, max(0, length - len(waveform))))
