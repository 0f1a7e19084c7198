# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Noisy training and test examples: clean speech mixed with noise at a given SNR, optionally with an RIR and a
simulated transmission.

Random parameters are drawn (`MixingRecipe.draw`) separately from being applied (`MixingRecipe.apply`). They depend on
(seed, epoch, index) only, so an example is the same for any number of workers, and can be logged, frozen and repeated.
"""

import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from ..models.sparse_merit.audio import SAMPLING_RATE, load_audio, resample
from .transmission import TRANSMISSIONS, checked_transmissions

if TYPE_CHECKING:
    from datasets import Dataset

SILENT_RMS = 10 ** (-90 / 20)  # -90 dBFS, just above one step of 16-bit dither
EARLY_SAMPLES = SAMPLING_RATE * 50 // 1000  # reflections within 50 ms of the direct sound help the listener
CLIPPING_DB = (0.0, 15.0)  # peak above the level at which a mixture is clipped

Range = tuple[float, float]


@dataclass(frozen=True)
class MixingParameters:
    """The random parameters of one example.

    `dataclasses.asdict` converts them to plain JSON values, and `MixingParameters(**values)` reads these.

    Attributes:
        noise_index: row of the noise dataset; None for no noise.
        noise_offset: where the noise starts, as a fraction in [0, 1) of the places where it may start.
        snr_db: signal-to-noise ratio over the whole clip, dB.
        level_db: RMS level of the speech in the mixture, dBFS; None keeps the recording's level.
        rir_index: row of the RIR dataset; None for no RIR.
        speed: speed of the speech (1.1 is 10 % faster, and higher in pitch).
        augment_seed: seed of the transform given as `augment`.
        noise_speed: speed of the noise, like that of the speech.
        transmission: name in `transmission.TRANSMISSIONS`; None for no transmission.
        clipping_db: how far below its peak the mixture is clipped, in dB; 0 for no clipping.
    """

    noise_index: int | None
    noise_offset: float
    snr_db: float
    level_db: float | None = None
    rir_index: int | None = None
    speed: float = 1.0
    augment_seed: int = 0
    noise_speed: float = 1.0
    transmission: str | None = None
    clipping_db: float = 0.0


@dataclass(frozen=True)
class Mixture:
    """A mixed example: float32 arrays (samples,) at 16 kHz, which have the same length and are aligned in time.

    Attributes:
        noisy: speech at the microphone plus noise, possibly clipped and transmitted.
        clean: the target of the enhancement.
        noise: the noise in `noisy`, including the distortion by clipping and codec. Hence `noisy - noise` is the
            speech at the microphone, in the band of the transmission; without an RIR, this equals `clean`.
    """

    noisy: np.ndarray
    clean: np.ndarray
    noise: np.ndarray


class MixingRecipe:
    """Mixes clean speech with the noises (and RIRs) of datasets.

    Args:
        noise: dataset with a column `audio` ({"bytes", "path"}); rows are decoded when needed.
        rirs: dataset of room impulse responses, in the same form.
        snr_db: signal-to-noise ratio in dB: a range to draw from uniformly, or one value.
        level_db: RMS level of the speech in dBFS: a range, one value, or None to keep each recording's level.
        speed: range of speed factors of the speech, or None.
        rir_probability: share of the examples that are convolved with an RIR.
        seed: 0 or more; another seed gives other examples.
        augment: transform of the clean speech, `augment(samples, sample_rate=16000)`: any of `audiomentations`, one or
            a `Compose`. The global generators it uses are seeded for its call and reset afterwards, which is safe in
            worker processes but not among threads.
        cache_seconds: seconds of decoded noise (and RIRs) that each process keeps in memory; a second needs 64 kB.
        noise_speed: range of speed factors of the noise, or None; (0.75, 1.3) diversifies a small noise dataset.
        transmissions: names in `transmission.TRANSMISSIONS`, from which one is drawn.
        transmission_probability: share of the examples that are transmitted.
        clipping_probability: share of the examples that are clipped, up to 15 dB below their peak.
        clean_probability: share of the examples without noise.

    Raises:
        ValueError: a dataset is empty or has no `audio` column; a range is not finite or reversed; a probability
            is not in [0, 1], or needs RIRs or transmissions that are not given; a transmission is unknown.
    """

    def __init__(
        self,
        noise: "Dataset",
        rirs: "Dataset | None" = None,
        snr_db: float | Range = (-5.0, 15.0),
        level_db: float | Range | None = (-35.0, -15.0),
        speed: Range | None = None,
        rir_probability: float = 0.0,
        seed: int = 0,
        augment: Callable[..., np.ndarray] | None = None,
        cache_seconds: float = 1200.0,
        noise_speed: Range | None = None,
        transmissions: Sequence[str] = (),
        transmission_probability: float = 0.0,
        clipping_probability: float = 0.0,
        clean_probability: float = 0.0,
    ):
        self.rir_probability = _checked_probability(rir_probability, "rir_probability", rirs is not None, "rirs")
        self.transmissions = checked_transmissions(transmissions)
        self.transmission_probability = _checked_probability(
            transmission_probability, "transmission_probability", bool(self.transmissions), "transmissions"
        )
        self.clipping_probability = _checked_probability(clipping_probability, "clipping_probability")
        self.clean_probability = _checked_probability(clean_probability, "clean_probability")
        self.snr_db = _checked_range(snr_db, "snr_db")
        self.level_db = None if level_db is None else _checked_range(level_db, "level_db")
        self.speed = _checked_speed(speed, "speed")
        self.noise_speed = _checked_speed(noise_speed, "noise_speed")
        self.seed = seed
        self.augment = augment
        self.noise = _DecodedRows(noise, "noise", cache_seconds)
        self.rirs = None if rirs is None else _DecodedRows(rirs, "rirs", cache_seconds)

    def draw(self, index: int, epoch: int = 0) -> MixingParameters:
        """Draws the parameters of one example; uses no global random state.

        Args:
            index: number of the example.
            epoch: number of the epoch; every epoch draws other parameters.
        """
        generator = np.random.default_rng([self.seed, epoch, index])
        # Always one number per parameter in this order, so that switching RIRs on does not change the drawn noises.
        noise, offset, snr, level, with_rir, rir, speed = generator.random(7).tolist()
        rirs = self.rirs if with_rir < self.rir_probability else None
        augment_seed, noise_speed = int(generator.integers(2**32)), generator.random()
        with_transmission, transmission, with_clipping, clipping, without_noise = generator.random(5).tolist()
        is_transmitted = with_transmission < self.transmission_probability
        return MixingParameters(
            noise_index=None if without_noise < self.clean_probability else int(noise * len(self.noise)),
            noise_offset=offset,
            snr_db=_within(self.snr_db, snr),
            level_db=None if self.level_db is None else _within(self.level_db, level),
            rir_index=None if rirs is None else int(rir * len(rirs)),
            speed=_within(self.speed, speed),
            augment_seed=augment_seed,
            noise_speed=_within(self.noise_speed, noise_speed),
            transmission=self.transmissions[int(transmission * len(self.transmissions))] if is_transmitted else None,
            clipping_db=_within(CLIPPING_DB, clipping) if with_clipping < self.clipping_probability else 0.0,
        )

    def apply(self, speech: np.ndarray, parameters: MixingParameters, name: str = "the speech") -> Mixture:
        """Mixes one recording with the given parameters; the same arguments give the same samples.

        Applies speed, `augment`, RIR, level, noise, clipping and transmission, in this order. The SNR relates speech
        at the microphone (with RIR) to the noise, by energy over the whole clip, before clipping and transmission. If
        the mixture or the target would exceed full scale (+-1), all signals are scaled down together, which keeps the
        SNR.

        With an RIR the target is the direct sound: the speech convolved with the impulse response up to 50 ms after
        its peak. Mixture and target are shifted by the time of that peak, so both stay aligned, with each other and
        with the dry speech. Clipping does not change the target; a transmission limits its band.

        Args:
            speech: float array (samples,) at 16 kHz, full scale +-1.
            parameters: from `draw`, or constructed directly.
            name: name of the speech in error messages, such as its file.

        Raises:
            ValueError: speech, noise or RIR are silent, empty, not finite or not mono; the message names which.
        """
        speech = self._prepared(_checked(speech, name), parameters, name)
        level = rms(speech) if parameters.level_db is None else 10 ** (parameters.level_db / 20)
        reverberant, clean = self._with_rir(speech, parameters.rir_index)
        gain = np.float32(level / rms(reverberant))
        reverberant, clean = reverberant * gain, clean * gain
        noise = self._noise_for(reverberant, parameters)
        mixture = _within_full_scale(reverberant + noise, clean, noise)
        if parameters.clipping_db:
            mixture = _clipped(mixture, parameters.clipping_db)
        return mixture if parameters.transmission is None else transmitted(mixture, parameters.transmission)

    def _prepared(self, speech: np.ndarray, parameters: MixingParameters, name: str) -> np.ndarray:
        """The speech after speed change and `augment`, (samples,)."""
        if parameters.speed != 1.0:
            resampled = resample(speech, round(SAMPLING_RATE * parameters.speed), SAMPLING_RATE)
            speech = resampled if rms(resampled) >= SILENT_RMS else speech  # all energy left the band: keep the speed
        if self.augment is None:
            return speech
        with _seeded(parameters.augment_seed):
            augmented = self.augment(speech.copy(), sample_rate=SAMPLING_RATE)
        return _checked(augmented, f"{name} after the transform `augment`")

    def _with_rir(self, speech: np.ndarray, rir_index: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Speech at the microphone and its early part, the target; both (samples,)."""
        if rir_index is None:
            return speech, speech
        if self.rirs is None:
            raise ValueError(f"The parameters ask for RIR {rir_index}, but the recipe was made without `rirs`.")
        response = self.rirs[rir_index]
        direct = int(np.argmax(np.abs(response)))
        early = np.where(np.arange(len(response)) < direct + EARLY_SAMPLES, response, 0)
        size = next_fast_len(len(speech) + len(response) - 1, real=True)
        spectra = rfft(np.stack([response, early]), size) * rfft(speech, size)  # (2, size // 2 + 1)
        reverberant, clean = irfft(spectra, size)[:, direct : direct + len(speech)].astype(np.float32)  # (2, samples)
        return reverberant, clean

    def _noise_for(self, speech: np.ndarray, parameters: MixingParameters) -> np.ndarray:
        """The drawn noise, as long as the speech and scaled to the drawn SNR, (samples,); zeros for none."""
        if parameters.noise_index is None:
            return np.zeros_like(speech)
        noise = _at_speed(self.noise[parameters.noise_index], len(speech), parameters)
        if noise is None:
            raise ValueError(
                f"{self.noise.name(parameters.noise_index)} is silent in every segment of "
                f"{len(speech) / SAMPLING_RATE:.2f} s. Leave it out."
            )
        level = rms(speech) / 10 ** (parameters.snr_db / 20)
        return noise * np.float32(level / rms(noise))


class _DecodedRows:
    """The audio of a dataset, decoded on demand; the last `seconds` used stay in memory."""

    def __init__(self, dataset: "Dataset", role: str, seconds: float):
        if "audio" not in dataset.column_names or len(dataset) == 0:
            raise ValueError(
                f"`{role}` must be a dataset with rows and a column `audio`; it has {len(dataset)} rows of "
                f"{dataset.column_names}."
            )
        self.dataset = dataset.select_columns("audio")
        self.role = role
        self.budget = round(seconds * SAMPLING_RATE)
        self.decoded: OrderedDict[int, np.ndarray] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray:
        """Row `index`: float32 (samples,) at 16 kHz, checked not to be silent."""
        if index not in self.decoded:
            self._keep(index, self._load(index))
        self.decoded.move_to_end(index)
        return self.decoded[index]

    def name(self, index: int) -> str:
        """Name of row `index` in error messages."""
        audio = self.dataset[index]["audio"]
        path = audio.get("path") if isinstance(audio, dict) else None
        return f"row {index} of `{self.role}`" + (f" ({path})" if path else "")

    def _load(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise ValueError(
                f"`{self.role}` has no row {index}, only 0 to {len(self) - 1}. Use the dataset that the parameters "
                "were drawn for."
            )
        try:
            waveform = load_audio(self.dataset[index]["audio"], target_sampling_rate=SAMPLING_RATE)
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.name(index)} cannot be read: {error}") from error
        return _checked(waveform, self.name(index))

    def _keep(self, index: int, waveform: np.ndarray) -> None:
        """Adds a row, and drops the least recently used others until the budget is met."""
        self.decoded[index] = waveform
        self.size += len(waveform)
        while self.size > self.budget and len(self.decoded) > 1:
            _, dropped = self.decoded.popitem(last=False)
            self.size -= len(dropped)


def _checked_range(value: float | Range, name: str) -> Range:
    low, high = (value, value) if isinstance(value, int | float) else tuple(value)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"`{name}` must be a number or a range (low, high) of finite numbers; got {value}.")
    return float(low), float(high)


def _checked_speed(value: Range | None, name: str) -> Range:
    limits = _checked_range((1.0, 1.0) if value is None else value, name)
    if limits[0] <= 0:
        raise ValueError(f"`{name}` must be a range of positive factors such as (0.9, 1.1); got {value}.")
    return limits


def _checked_probability(value: float, name: str, is_possible: bool = True, needs: str = "") -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be in [0, 1]; got {value}.")
    if value and not is_possible:
        raise ValueError(f"`{name}` must be 0 unless `{needs}` are given; got {value}.")
    return value


def _within(limits: Range, fraction: float) -> float:
    return limits[0] + fraction * (limits[1] - limits[0])


def _checked(waveform: np.ndarray, name: str) -> np.ndarray:
    """The waveform as float32 (samples,), or a ValueError that says what is wrong with `name`."""
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or waveform.dtype.kind != "f" or waveform.size == 0:
        raise ValueError(
            f"{name} must be a float array (samples,) that is not empty; got {waveform.dtype} {waveform.shape}. "
            "Use `load_audio` to read recordings."
        )
    waveform = waveform.astype(np.float32, copy=False)
    level = rms(waveform)
    if not math.isfinite(level):
        raise ValueError(f"{name} holds NaN or infinite samples. Leave it out or repair it.")
    if level < SILENT_RMS:
        raise ValueError(f"{name} is silent (RMS below -90 dBFS), so it has no SNR. Leave it out.")
    return waveform


def _at_speed(waveform: np.ndarray, length: int, parameters: MixingParameters) -> np.ndarray | None:
    """`audible_segment` of a noise at its drawn speed; only the used part is resampled."""
    rate = round(SAMPLING_RATE * parameters.noise_speed)
    if rate == SAMPLING_RATE:
        return audible_segment(waveform, length, parameters.noise_offset)
    needed = math.ceil(length * rate / SAMPLING_RATE) + 1
    segment = audible_segment(waveform, needed, parameters.noise_offset)
    if segment is None:
        return None
    resampled = resample(segment, rate, SAMPLING_RATE)[:length]
    # A high whistle leaves the band when sped up, except for clicks at its ends; such noise keeps its speed.
    if rms(resampled) < 0.1 * rms(segment):
        return audible_segment(waveform, length, parameters.noise_offset)
    return resampled


def rms(waveform: np.ndarray) -> float:
    """Root mean square, summed in float64, since float32 sums drift on long recordings."""
    return math.sqrt(np.mean(np.square(waveform, dtype=np.float64)))


def audible_segment(waveform: np.ndarray, length: int, offset: float) -> np.ndarray | None:
    """`length` samples of a recording: cropped where it is long enough, else looped end to start.

    A recording may be silent for longer than a clip. If the drawn segment is silent, the following ones are tried
    in turn, wrapping around the end, and the first that is not silent is returned; None if all are silent.

    Args:
        waveform: float32 (samples,).
        length: number of samples to return.
        offset: where to start, as a fraction in [0, 1) of the places where a segment may start.
    """
    if len(waveform) >= length:
        start = int(offset * (len(waveform) - length + 1))
        segment = waveform[start : start + length]
    else:
        start = int(offset * len(waveform))
        segment = np.resize(np.roll(waveform, -start), length)
    if rms(segment) >= SILENT_RMS:
        return segment
    count = math.ceil(len(waveform) / length)
    segments = np.resize(np.roll(waveform, -start), (count, length))  # (count, samples)
    audible = np.flatnonzero(np.mean(np.square(segments, dtype=np.float64), axis=1) >= SILENT_RMS**2)
    return segments[audible[0]] if audible.size else None


def transmitted(mixture: Mixture, name: str) -> Mixture:
    """The mixture after a transmission, which codes `noisy` and limits the band of the target. All are scaled down
    together where one would exceed full scale.

    Args:
        mixture: before the transmission.
        name: in `transmission.TRANSMISSIONS`.

    Raises:
        ValueError: there is no such transmission.
    """
    (name,) = checked_transmissions([name], "transmission")
    transmission = TRANSMISSIONS[name]
    noisy, clean = transmission.apply(mixture.noisy), transmission.band_limit(mixture.clean)
    return _within_full_scale(noisy, clean, noisy - transmission.band_limit(mixture.noisy - mixture.noise))


def _clipped(mixture: Mixture, clipping_db: float) -> Mixture:
    limit = np.float32(np.abs(mixture.noisy).max() / 10 ** (clipping_db / 20))
    noisy = np.clip(mixture.noisy, -limit, limit)
    return Mixture(noisy=noisy, clean=mixture.clean, noise=mixture.noise + (noisy - mixture.noisy))


def _within_full_scale(noisy: np.ndarray, clean: np.ndarray, noise: np.ndarray) -> Mixture:
    peak = max(np.abs(noisy).max(), np.abs(clean).max())
    if peak > 1:
        noisy, clean, noise = noisy / peak, clean / peak, noise / peak
    return Mixture(noisy=noisy, clean=clean, noise=noise)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators that `audiomentations` uses, and resets them afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
