# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Runs the model on the windows of recordings and streams of any length, in bounded memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .activity import LevelDetector
from .audio import as_float32, checked_rate
from .cutting import FRAME, LEVEL_CHANGE, MIN_SAMPLES, SAMPLING_RATE, Stride, Window, WindowCutter
from .decoding import soxr
from .experts import expert_use
from .speech_segments import SpeechSegment, SpeechSegments
from .tasks import ENHANCEMENT

HALF_FADE = 640  # samples, 40 ms, on either side of a cut
LATENCY_CHUNK_S, LATENCY_STRIDE_S = 2.0, (1.6, 0.08)
"""Window of a stream and its context in seconds; the algorithmic latency is about 0.4 s."""

EXPERTS_OF = "experts of "
"""Before the name of a task, in the outputs of `WindowModel.forward`."""
Detector = Callable[[Window, np.ndarray | None], np.ndarray]
"""Speech detector of one recording. It is called with each window in order and its enhanced waveform, or None without
enhancement, and returns boolean (ceil(samples of the piece / 320),), true for speech. If it or its factory has the
attribute `uses_enhancement` False, the enhancement does not run for clip tasks alone."""
DetectorFactory = Callable[[], Detector]
"""Creates a detector for each recording."""


@dataclass(frozen=True)
class WindowOutput:
    """Outputs of the model for a window.

    Args:
        enhanced: {task: (samples,)} of the waveform tasks, as long as the window, in the level of the recording.
        features: {task: (T, D)} of the clip tasks, for the frames of the piece.
        expert_use: {task: (T, N)}, the share of each expert in each frame of the piece, if requested.
    """

    enhanced: dict[str, np.ndarray]
    features: dict[str, torch.Tensor]
    expert_use: dict[str, np.ndarray] = field(default_factory=dict)


class WindowModel:
    """A model and its feature extractor on batches of windows.

    Args:
        model: a `SparseMeritForSpeechEnhancementAndEmotion`.
        feature_extractor: its `SparseMeritFeatureExtractor`.
        tasks: tasks to compute; None for all tasks of the model.
        uses_enhancement: whether the enhancement also runs if only clip tasks are requested, to find the speech.
        returns_expert_use: whether the outputs include the use of the experts.
    """

    def __init__(
        self,
        model: Any,
        feature_extractor: Any,
        tasks: Sequence[str] | None,
        uses_enhancement: bool = True,
        returns_expert_use: bool = False,
    ):
        self.model, self.feature_extractor, self.returns_expert_use = model, feature_extractor, returns_expert_use
        self.asked = list(model.config.tasks if tasks is None else tasks)
        tasks = model.tasks
        self.clip_tasks = [task for task in self.asked if task in tasks and tasks[task].kind != "waveform"]
        is_needed = uses_enhancement and self.clip_tasks and ENHANCEMENT in model.config.tasks
        self.feature_samples = model.config.inputs_to_logits_ratio
        self.tasks = tuple(dict.fromkeys([*self.asked, *([ENHANCEMENT] if is_needed else [])]))

    def inputs(self, windows: Sequence[Window]) -> dict[str, torch.Tensor]:
        """`input_values` and `attention_mask`, (B, S), of B windows."""
        waveforms, measured = [window.waveform for window in windows], [window.measured for window in windows]
        options = {"sampling_rate": SAMPLING_RATE, "scale_like": measured, "return_tensors": "pt"}
        return dict(self.feature_extractor(waveforms, **options))

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The model's outputs: waveforms (B, S) by the names of their tasks, features (B, T, D) of clip tasks, and, if
        requested, the use of the experts (B, T, N) by `EXPERTS_OF` and the names of the tasks."""
        options = {"output_features": bool(self.clip_tasks), "output_router_logits": self.returns_expert_use}
        outputs = self.model(**inputs, tasks=self.tasks, **options)
        waveforms = {task: outputs.of(task) for task in self.tasks if task not in self.clip_tasks}
        logits = {task: values for task, values in (outputs.router_logits or {}).items() if task in self.asked}
        use = {EXPERTS_OF + task: expert_use(values, self.model.config.router) for task, values in logits.items()}
        return waveforms | {task: outputs.features[task] for task in self.clip_tasks} | use

    def output(self, window: Window, row: dict[str, torch.Tensor]) -> WindowOutput:
        """Converts the outputs of one window.

        Args:
            window: the window.
            row: {task: (1, S) or (1, T, D)}, its row of the outputs of `forward`.
        """
        enhanced, features, use = {}, {}, {}
        for task, values in row.items():
            if task.startswith(EXPERTS_OF):
                shares = self._of_piece(window, values[0]).float().numpy()
                missing = -(-(window.end - window.start) // self.feature_samples) - len(shares)
                use[task.removeprefix(EXPERTS_OF)] = np.pad(shares, ((0, missing), (0, 0)), mode="edge")
            elif task in self.clip_tasks:
                features[task] = self._of_piece(window, values[0])
            else:
                waveforms = self.feature_extractor.denormalize(
                    values.float(), [window.waveform], scale_like=[window.measured]
                )
                enhanced[task] = waveforms[0]
        return WindowOutput(enhanced, features, use)

    def _of_piece(self, window: Window, features: torch.Tensor) -> torch.Tensor:
        """Features (T, D) of a window, padding included -> those of its piece; at least one."""
        length = int(self.model._get_feat_extract_output_lengths(len(window.waveform)))
        first = min(window.left // self.feature_samples, length - 1)
        end = first + -(-(window.end - window.start) // self.feature_samples)
        return features[first : min(end, length)].clone()

    def run(self, windows: Sequence[Window]) -> list[WindowOutput]:
        """Runs the model on windows, in one batch."""
        device = self.model.device
        with torch.inference_mode():
            inputs = {name: values.to(device) for name, values in self.inputs(windows).items()}
            outputs = {name: values.cpu() for name, values in self.forward(inputs).items()}
        rows = ({name: values[place : place + 1] for name, values in outputs.items()} for place in range(len(windows)))
        return [self.output(*pair) for pair in zip(windows, rows, strict=True)]

    def heads(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs the heads of the clip tasks on a span of features: {task: (1, T, D)} -> {task: (1, K)}."""
        with torch.inference_mode():
            moved = {task: values.to(self.model.device) for task, values in features.items()}
            return {task: values.cpu() for task, values in self.model.clip_outputs(moved).items()}


class Assembler:
    """Joins the outputs of the windows of a recording, in order.

    Neighbouring windows are cross-faded over 80 ms around a cut, or as far as their context allows, with squared-sine
    weights that add up to 1.

    Args:
        model: the model that computed the outputs.
        detector: factory of the speech detector of this recording; `detect_by_level` by default.
        finds_segments: whether to find the segments of speech even without clip tasks.
    """

    def __init__(self, model: WindowModel, detector: DetectorFactory | None = None, finds_segments: bool = False):
        self._detector = (detector or detect_by_level)()
        has_segments = finds_segments or model.clip_tasks
        self._timeline = SpeechSegments(model.heads, model.feature_samples) if has_segments else None
        self._peak_db: float | None = None  # of the last piece
        self._held: dict[str, np.ndarray] = {}  # around the last cut, as much before it as after it

    def add(self, window: Window, output: WindowOutput) -> tuple[dict[str, np.ndarray], list[SpeechSegment]]:
        """Adds the next window.

        Args:
            window: the window.
            output: its outputs.

        Returns:
            {task: (samples,)} that are final now, and the segments that have ended.
        """
        enhanced = {task: self._joined(task, window, values) for task, values in output.enhanced.items()}
        if self._timeline is None:
            return enhanced, []
        is_speech = self._detector(window, output.enhanced.get(ENHANCEMENT))
        segments = self._timeline.add(is_speech, output.features, self._is_other_level(window))
        return enhanced, segments + (self._timeline.finish() if window.is_last else [])

    def _is_other_level(self, window: Window) -> bool:
        before, self._peak_db = self._peak_db, window.peak_db
        return not window.is_fixed and before is not None and abs(self._peak_db - before) >= LEVEL_CHANGE

    @property
    def next_start(self) -> int:
        """`next_start` of the segments in samples; 0 if none are looked for."""
        return 0 if self._timeline is None else FRAME * self._timeline.next_start

    def current(self) -> dict[str, torch.Tensor] | None:
        """{task: (1, K)} of the segment that is open; None if there is none or it is too short."""
        return None if self._timeline is None else self._timeline.current()

    def _joined(self, task: str, window: Window, values: np.ndarray) -> np.ndarray:
        size = window.end - window.start
        held = self._held.get(task, values[:0])
        before = len(held) // 2
        half = min(before, window.left, size // 2)
        after = 0 if window.is_last else min(HALF_FADE, window.right, size // 2)
        cut, end = window.left, window.left + size
        rising = np.sin(np.pi / 2 * (np.arange(2 * half) + 0.5) / max(1, 2 * half)).astype(np.float32) ** 2
        faded = held[before - half : before + half] * (1 - rising) + values[cut - half : cut + half] * rising
        self._held[task] = values[end - after : end + after]
        return np.concatenate([held[: before - half], faded, values[cut + half : end - after]])


def detect_by_level() -> Detector:
    """Creates a [`LevelDetector`] for a recording. Windows of fixed length are examined with their context."""
    detector = LevelDetector()

    def detect(window: Window, enhanced: np.ndarray | None) -> np.ndarray:
        if not window.is_fixed:
            return detector.speech_frames(window.piece, None if enhanced is None else window.of_piece(enhanced))
        first, count = window.left // FRAME, -(-(window.end - window.start) // FRAME)
        return detector.speech_frames(window.waveform, enhanced)[first : first + count]

    return detect


@dataclass(frozen=True)
class StreamOutput:
    """Results of a block of a stream.

    Args:
        audio: enhanced float32 (samples,) that is final now, at the level and rate of the stream; it may be empty, and
            is empty without enhancement. All blocks of a stream together are as long as the stream.
        segments: segments of speech that have ended, {"start", "end", "emotion", "scores"}, in seconds of the stream.
        emotion: label and score, likeliest first, of the segment that is open, or of the last one; empty before the
            first.
        seconds: duration of the stream that has been processed.
    """

    audio: np.ndarray
    segments: list[dict[str, Any]]
    emotion: list[dict[str, Any]]
    seconds: float


class StreamingEnhancer:
    """Enhances a live stream and tracks its emotion.

    Created by `pipe.stream()`. Blocks may have any length: the results do not depend on it, and equal those of the
    pipeline for the whole recording with the same `chunk_length_s` and `stride_length_s`.

    A window consists of its left context, a piece, and its right context. With less than 2 s between the contexts, all
    pieces have that length: the latency is the piece plus the right context, and the load is the window divided by the
    piece. Otherwise pieces end in pauses, for the best quality, and the latency is up to `chunk_length_s` plus 3 s.

    Args:
        model: a `WindowModel`.
        describe: two functions. The first converts segments, with the seconds so far, to the segments of the pipeline.
            The second converts outputs {task: (1, K)} to ranked emotions.
        sampling_rate: sampling rate of the stream in Hz. Other rates than 16 kHz need soxr, which adds a delay of up
            to 0.1 s before the model and after it.
        chunk_length_s, stride_length_s: the window and its context on either side, or (left, right), in seconds.
        detector: factory of the speech detector; `detect_by_level` by default.

    Usage:
        >>> from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("tiny")
        >>> stream = pipe.stream(sampling_rate=16_000)
        >>> for block in np.zeros((10, 1_600), np.float32):     # from a microphone; floats or integers
        ...     output = stream.process(block)
        >>> rest = stream.finish()
        >>> rest.audio.dtype, rest.emotion, rest.segments
        (dtype('float32'), [], [])
    """

    def __init__(
        self,
        model: WindowModel,
        describe: tuple[Callable, Callable],
        sampling_rate: int = SAMPLING_RATE,
        chunk_length_s: float = LATENCY_CHUNK_S,
        stride_length_s: Stride = LATENCY_STRIDE_S,
        detector: DetectorFactory | None = None,
    ):
        self.sampling_rate = checked_rate(sampling_rate, "The stream")
        self._model, (self._segments, self._emotion) = model, describe
        self._window, self._detector = (chunk_length_s, stride_length_s), detector
        self.reset()

    def reset(self) -> None:
        """Discards the stream; the next block begins a new one."""
        self._cutter = WindowCutter(*self._window)
        self._assembler = Assembler(self._model, self._detector)
        self._given = self._returned = 0
        self._seconds = 0.0
        self._last: list[dict[str, Any]] = []
        rates = (self.sampling_rate, SAMPLING_RATE)
        is_same = rates[0] == rates[1]
        self._to, self._back = (None if is_same else _Resampler(*pair) for pair in (rates, rates[::-1]))

    @property
    def latency_ms(self) -> float:
        """Longest delay of a sample in ms, without the run time of the model."""
        fade_s = min(HALF_FADE, self._cutter.right * FRAME) / SAMPLING_RATE
        rates = (self.sampling_rate, SAMPLING_RATE)
        resampling_s = 0.0 if self._to is None else _delay_s(*rates) + _delay_s(*rates[::-1])
        return 1000 * (self._cutter.latency_s + fade_s + resampling_s)

    @property
    def window_s(self) -> tuple[float, float, float]:
        """Seconds of the left context, of the longest piece, and of the right context of a window."""
        return self._cutter.window_s

    def process(self, block: Any) -> StreamOutput:
        """Processes the next samples.

        Args:
            block: mono array (samples,), floats in full scale +-1 or integers in that of their type.

        Raises:
            ValueError: it is not mono, or not finite.
        """
        block = as_float32(block, "The block")
        if block.ndim != 1 or not np.isfinite(block).all():
            raise ValueError(f"The block has shape {block.shape}; expected finite samples of one channel, (samples,).")
        self._given += len(block)
        return self._output(self._cutter.add(block if self._to is None else self._to(block)))

    def finish(self) -> StreamOutput:
        """Returns the rest of the stream and prepares for a new one."""
        windows = [] if self._to is None else self._cutter.add(self._to(np.empty(0, np.float32), True))
        windows += self._cutter.finish()
        output = self._output([window for window in windows if len(window.waveform) >= MIN_SAMPLES], is_last=True)
        self.reset()
        return output

    def _output(self, windows: list[Window], is_last: bool = False) -> StreamOutput:
        audio, segments = [], []
        for window in windows:
            (given,) = self._model.run([window])
            enhanced, ended = self._assembler.add(window, given)
            if ENHANCEMENT in self._model.asked:
                audio.append(enhanced[ENHANCEMENT])
            segments += ended
            self._seconds = min(window.end / SAMPLING_RATE, self._given / self.sampling_rate)
        described = self._segments(segments, self._given / self.sampling_rate)
        current = self._assembler.current() if windows else None
        if current is not None:
            self._last = self._emotion(current)
        elif segments:
            self._last = self._emotion(segments[-1].outputs)
        return StreamOutput(self._at_own_rate(audio, is_last), described, self._last, self._seconds)

    def _at_own_rate(self, audio: list[np.ndarray], is_last: bool) -> np.ndarray:
        """Enhanced samples (samples,) at the rate of the stream; at the end, as many as the stream had."""
        samples = np.concatenate([*audio, np.empty(0, np.float32)])
        if self._back is not None:
            samples = self._back(samples, is_last)
        if is_last and ENHANCEMENT in self._model.asked:
            left = self._given - self._returned
            samples = np.pad(samples[:left], (0, max(0, left - len(samples))))
        self._returned += len(samples)
        return samples


class _Resampler:
    """Blocks from one rate to another, in Hz."""

    def __init__(self, source_rate: int, target_rate: int):
        self._stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="VHQ")

    def __call__(self, block: np.ndarray, is_last: bool = False) -> np.ndarray:
        return self._stream.resample_chunk(block, last=is_last)


def _delay_s(source_rate: int, target_rate: int) -> float:
    """Longest delay in seconds of a resampler, which buffers samples internally; it is measured."""
    resample, block = _Resampler(source_rate, target_rate), np.zeros(max(1, source_rate // 1000), np.float32)
    given = returned = 0
    longest = 0.0
    while given < source_rate // 2:
        given += len(block)
        returned += len(resample(block))
        longest = max(longest, given / source_rate - returned / target_rate)
    return longest
