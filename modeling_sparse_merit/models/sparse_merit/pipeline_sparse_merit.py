# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pipelines for speech enhancement and speech emotion recognition.

`SpeechEnhancementAndEmotionPipeline` combines the model, its feature extractor and its settings. `EmotionPipeline`
returns the results of an "audio-classification" pipeline. All inputs are loaded by `audio.py`: paths, bytes, arrays
and rows of `datasets`, at any sampling rate and with any number of channels.
"""

import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.pipelines.base import ChunkPipeline

from .adapters import load_merged, read_adapter_config
from .audio import Channel, check_duration, checked_channel, decode_audio, load_audio, name_of
from .calibration import Calibration, read_calibration
from .configuration_sparse_merit import custom_pipelines
from .cutting import CHUNK_LENGTH_S, SAMPLING_RATE, STRIDE_LENGTH_S, Stride, Window, WindowCutter
from .feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from .modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion, load_checked
from .sources import locate
from .speech_segments import SpeechSegment, average
from .streaming import LATENCY_CHUNK_S, LATENCY_STRIDE_S, Assembler, DetectorFactory, StreamingEnhancer, WindowModel
from .task_files import add_task, find_task
from .tasks import EMOTION, ENHANCEMENT

logger = logging.getLogger(__name__)

SCORE_FUNCTIONS = {"softmax": lambda logits: logits.softmax(-1), "sigmoid": torch.sigmoid, "none": torch.clone}
"""Values of `function_to_apply`: logits (classes,) to scores (classes,)."""
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")
COMMON_PARAMETERS = "sampling_rate, channel, chunk_length_s, stride_length_s, detector or batch_size"
NO_SPEECH, UNSURE = "no speech", "unsure"
"""Values of `reason` in results without an emotion."""


class SpeechEnhancementAndEmotionPipeline(ChunkPipeline):
    """Enhances speech and recognises its emotion.

    Usage:
        >>> import transformers
        >>> from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
        >>> pipe = transformers.pipeline(model="my-model", trust_remote_code=True)  # without this package
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("tiny")      # or a folder, or a Hub id
        >>> result = pipe("call.flac")      # or bytes, an array, {"array": ..., "sampling_rate": ...}
        >>> result["emotion"][0]
        {'label': '...', 'score': 0...}
        >>> result["audio"].dtype, result["sampling_rate"]     # (samples,), at the level of the recording
        (dtype('float32'), 16000)
        >>> pipe.emotion_timeline("call.flac")
        [{'start': ..., 'end': ..., 'emotion': '...', 'scores': {...}}...]
        >>> results = pipe(["call.flac", "call.wav"], batch_size=2, tasks=("emotion",))

    A recording of any length is cut at pauses into windows (see `WindowCutter`). Each window is scaled by its own mean
    and variance, so windows do not affect each other, and the run time is linear in the length. Emotion is averaged
    over the segments of speech, weighted by their durations. A recording without speech has no emotion.

    Parameters at construction:
        calibrated: whether emotion scores are calibrated by a `calibration.json` next to the weights, True by default.
            `calibration` is then its [`Calibration`], else None. Pass False for a model that was trained further after
            loading.

    Parameters, at construction or at each call:
        tasks: what to compute, any of the model's tasks; all of them by default.
        top_k: how many emotions to return, all of them by default.
        min_score: if the likeliest emotion of a segment has a lower score, its emotion is None; if that of the whole
            recording has, its reason is "unsure". 0 by default. It refers to calibrated scores.
        return_segments: whether to return the `segments` of speech as well, each with its `start` and `end` in
            seconds, its `emotion` and its `scores`.
        return_expert_use: whether to return `expert_use` as well, {task: (T, N)}: the share of each of N experts in
            each of T frames of 20 ms, which is 1 for the chosen expert of a sparse router.
        chunk_length_s: longest window in seconds, 10 by default.
        stride_length_s: context of a window on either side, or (left, right), in seconds, 0.04 by default. With less
            than 2 s between both contexts, windows have a fixed length.
        detector: factory of a speech detector for each recording (see `streaming.Detector`); by default
            `activity.LevelDetector`, which uses levels.
        sampling_rate: sampling rate of bare arrays in Hz.
        channel: "mix" (mean of the channels, the default), "left", "right", a number from 1, or "each", which returns
            a list with a result for each channel, whose number is in `channel`.
        batch_size: number of windows in a batch. Results do not depend on it, except with an encoder that has
            `feat_extract_norm="group"` (WavLM-Base).
    """

    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    model: SparseMeritForSpeechEnhancementAndEmotion
    feature_extractor: SparseMeritFeatureExtractor
    _load_feature_extractor: Any = True
    _load_tokenizer: Any = False
    _parameters = f"tasks, top_k, min_score, return_segments, return_expert_use, {COMMON_PARAMETERS}"

    def __init__(self, *args: Any, **kwargs: Any):
        calibrated = kwargs.pop("calibrated", True)
        local_files_only = kwargs.pop("local_files_only", None)  # `transformers.pipeline` leaves it in
        super().__init__(*args, **kwargs)
        # `transformers.pipeline` puts classes there, which cannot be serialised
        self.model.config.custom_pipelines = custom_pipelines()
        where = {"revision": getattr(self.model.config, "_commit_hash", None), "local_files_only": local_files_only}
        self.calibration = _calibration_of(self.model.name_or_path, _given(where)) if calibrated else None

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike, **kwargs: Any) -> "SpeechEnhancementAndEmotionPipeline":
        """Loads model and feature extractor. Adapters are merged into the checkpoint that they were trained on.

        Args:
            model: name of a checkpoint inside the package (`tiny`), folder or Hub id, see `locate`.
            kwargs: `dtype` ("fp32", the default, "bf16" or "int8"); `further_tasks`, names of tasks in the folder
                `tasks` of the checkpoint, or files of tasks (see `add_task`); arguments for the Hub: `revision` (a
                branch or a commit), `token`, `cache_dir` and `local_files_only`; and arguments of the pipeline, such
                as `device`.

        Raises:
            OSError: there is no checkpoint.
            ValueError: the checkpoint contains another kind of model, its weights cannot be used, or
                `calibration.json` or the file of a task is damaged or of another model.
        """
        further_tasks = kwargs.pop("further_tasks", ())
        model, dtype, calibrated = locate(model), kwargs.pop("dtype", "fp32"), kwargs.pop("calibrated", True)
        where = {name: value for name in HUB_ARGUMENTS if (value := kwargs.pop(name, None)) is not None}
        config_class = SparseMeritForSpeechEnhancementAndEmotion.config_class
        model_type = config_class.get_config_dict(model, **where)[0].get("model_type")
        if model_type != config_class.model_type:
            raise ValueError(
                f"{str(model)!r} holds a model of type {model_type!r}, expected {config_class.model_type!r}: "
                "pass the folder or the Hub id of a Sparse MERIT checkpoint."
            )
        if (adapters := read_adapter_config(model, **where)) is not None:
            load = partial(load_merged, model, adapters, dtype, **where)
        else:
            whole = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained
            load = partial(whole, model, dtype=dtype, output_loading_info=True, **where)
        network = load_checked(load, str(model))
        for task in further_tasks:
            add_task(network, find_task(model, task, **where))
        feature_extractor = SparseMeritFeatureExtractor.from_pretrained(model, **where)
        pipe = cls(model=network.eval(), feature_extractor=feature_extractor, calibrated=False, **kwargs)
        pipe.calibration = _calibration_of(model, where) if calibrated else None
        return pipe

    # Further positional arguments are refused, where transformers ignores them.
    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Processes one recording, or each one of a list, a generator or a column of `datasets`.

        Args:
            inputs: a recording in any form that `load_audio` accepts, or several.
            kwargs: parameters of the pipeline, for this call.

        Returns:
            a result (see `postprocess`); a list of results for a list or a column of a dataset; an iterator over
            results for a generator or a column of a streaming dataset.

        Raises:
            ValueError: a recording cannot be used, see `load_audio`; or a parameter is out of range.
            TypeError: an unknown parameter.
        """
        if _is_column(inputs):
            results = self.__call__((recording for recording in inputs), **kwargs)
            return list(results) if isinstance(inputs, Sized) else results
        if isinstance(inputs, list | tuple):
            if len(inputs) == 0:
                return []
            inputs = np.asarray(inputs) if isinstance(inputs[0], int | float | np.number) else list(inputs)
        if kwargs.get("channel", self._preprocess_params.get("channel")) == "each":
            return self._process_channels(inputs, **{**kwargs, "channel": "mix"})
        return super().__call__(inputs, **kwargs)

    def _process_channels(self, inputs: Any, **kwargs: Any) -> Any:
        """A list with the result of each channel; for several recordings, a list or an iterator of such lists."""
        if isinstance(inputs, list):
            return [self._process_channels(recording, **kwargs) for recording in inputs]
        if isinstance(inputs, Iterator):
            return (self._process_channels(recording, **kwargs) for recording in inputs)
        audio = decode_audio(inputs, kwargs.pop("sampling_rate", self._preprocess_params.get("sampling_rate")))
        tracks = audio.tracks("each")
        arrays = [{"array": track.waveform, "sampling_rate": audio.sampling_rate} for track in tracks]
        results = super().__call__(arrays, sampling_rate=audio.sampling_rate, **kwargs)
        return [self._of_channel(result, track.channel) for result, track in zip(results, tracks, strict=True)]

    def _of_channel(self, result: Any, channel: Channel) -> Any:
        return {"channel": channel, **result}

    def emotion_timeline(self, inputs: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The segments of speech of one recording: their `start` and `end` in seconds, `emotion` and `scores`.

        Args:
            inputs, kwargs: as for a call; `tasks` and `return_segments` are ignored.

        Raises:
            ValueError: `channel="each"`, which would be several timelines.
        """
        settings = {**self._preprocess_params, **self._forward_params, **self._postprocess_params, **kwargs}
        settings.pop("function_to_apply", None)
        if settings.get("channel") == "each":
            raise ValueError('`channel` is "each"; expected one channel, or "mix": a timeline describes one signal.')
        parts = {"model": self.model, "feature_extractor": self.feature_extractor, "device": self.device}
        pipe = SpeechEnhancementAndEmotionPipeline(**parts, batch_size=self._batch_size, calibrated=False)
        pipe.calibration = self.calibration
        return pipe(inputs, **{**settings, "tasks": (EMOTION,), "return_segments": True})["segments"]

    def stream(
        self,
        sampling_rate: int = SAMPLING_RATE,
        chunk_length_s: float = LATENCY_CHUNK_S,
        stride_length_s: Stride = LATENCY_STRIDE_S,
        tasks: Sequence[str] | None = None,
        min_score: float | None = None,
        detector: DetectorFactory | None = None,
    ) -> StreamingEnhancer:
        """Creates a [`StreamingEnhancer`], which enhances a live stream and tracks its emotion.

        Args:
            sampling_rate: sampling rate of the stream in Hz.
            chunk_length_s, stride_length_s: window and context in seconds; they determine latency and load.
            tasks, min_score, detector: as for a call.
        """
        given: dict[str, Any] = {"tasks": tasks, "min_score": min_score, "detector": detector}
        checked = SpeechEnhancementAndEmotionPipeline._sanitize_parameters(self, **given)[2]
        settings = {**self._postprocess_params, **checked}
        least, detector = settings.get("min_score", 0.0), settings.get("detector")
        model = self.window_model(settings.get("tasks"), detector)

        def describe(segments: list[SpeechSegment], seconds: float) -> list[dict[str, Any]]:
            named = [segment for segment in segments if EMOTION in segment.outputs]
            return [self._described(segment, seconds, least) for segment in named]

        def ranked(outputs: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
            return self._ranked_emotion(outputs) if EMOTION in outputs else []

        return StreamingEnhancer(model, (describe, ranked), sampling_rate, chunk_length_s, stride_length_s, detector)

    def window_model(
        self,
        tasks: Sequence[str] | None = None,
        detector: DetectorFactory | None = None,
        returns_expert_use: bool = False,
    ) -> WindowModel:
        """The model on batches of windows.

        Args:
            tasks: tasks to compute; by default those of the construction.
            detector: factory of the speech detector. Unless its `uses_enhancement` is False, the enhancement also runs
                if only the emotion is requested.
            returns_expert_use: whether the outputs include the use of the experts.
        """
        tasks = self._forward_params.get("tasks") if tasks is None else tasks
        uses_enhancement = getattr(detector, "uses_enhancement", True)
        return WindowModel(self.model, self.feature_extractor, tasks, uses_enhancement, returns_expert_use)

    def _sanitize_parameters(
        self,
        tasks: Sequence[str] | None = None,
        top_k: int | None = None,
        min_score: float | None = None,
        return_segments: bool | None = None,
        return_expert_use: bool | None = None,
        sampling_rate: int | None = None,
        channel: Channel | None = None,
        chunk_length_s: float | None = None,
        stride_length_s: Stride | None = None,
        detector: DetectorFactory | None = None,
        **unknown: Any,
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise TypeError(f"Unknown arguments {sorted(unknown)}, expected {self._parameters}.")
        if isinstance(tasks, str):
            tasks = (tasks,)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected 1 or more, or None for all emotions.")
        if min_score is not None and not 0 <= min_score <= 1:
            raise ValueError(f"min_score is {min_score}, expected a number from 0 to 1.")
        if chunk_length_s is not None or stride_length_s is not None:
            own = getattr(self, "_preprocess_params", {})  # those of the construction
            if chunk_length_s is None:
                chunk_length_s = own.get("chunk_length_s", CHUNK_LENGTH_S)
            if stride_length_s is None:
                stride_length_s = own.get("stride_length_s", STRIDE_LENGTH_S)
            WindowCutter(chunk_length_s, stride_length_s)  # validates both
        before = {
            "sampling_rate": sampling_rate,
            "channel": None if channel is None else checked_channel(channel),
            "chunk_length_s": chunk_length_s,
            "stride_length_s": stride_length_s,
        }
        during = {"tasks": tasks, "detector": detector, "return_expert_use": return_expert_use}
        after = {"top_k": top_k, "min_score": min_score, "return_segments": return_segments, **during}
        return _given(before), _given(during), _given(after)

    # `Pipeline` hands each step its own parameters, which the signatures here name.
    def preprocess(  # type: ignore[override]
        self,
        inputs: Any,
        sampling_rate: int | None = None,
        channel: Channel = "mix",
        chunk_length_s: float = CHUNK_LENGTH_S,
        stride_length_s: Stride = STRIDE_LENGTH_S,
    ) -> Iterator[dict[str, Any]]:
        """Loads a recording and cuts it into windows.

        Args:
            inputs: a recording in any form that `load_audio` accepts.
            sampling_rate, channel, chunk_length_s, stride_length_s: as for a call.

        Yields:
            the inputs of the model for each window, the window itself as "window", and "is_last".

        Raises:
            ValueError: the recording cannot be used, see `load_audio`, or is shorter than 25 ms.
        """
        waveform = load_audio(inputs, sampling_rate, SAMPLING_RATE, channel)
        check_duration(waveform, SAMPLING_RATE, name_of(inputs))
        cutter, model = WindowCutter(chunk_length_s, stride_length_s), self.window_model(None)
        for window in [*cutter.add(waveform), *cutter.finish()]:
            yield {**model.inputs([window]), "window": window, "is_last": window.is_last}

    def _forward(  # type: ignore[override]
        self,
        model_inputs: dict[str, Any],
        tasks: Sequence[str] | None = None,
        detector: DetectorFactory | None = None,
        return_expert_use: bool = False,
    ) -> dict[str, Any]:
        travelling = {name: model_inputs.pop(name) for name in ("window", "is_last")}
        return {**self.window_model(tasks, detector, return_expert_use).forward(model_inputs), **travelling}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int | None = None,
        min_score: float = 0.0,
        return_segments: bool = False,
        tasks: Sequence[str] | None = None,
        detector: DetectorFactory | None = None,
        return_expert_use: bool = False,
    ) -> dict[str, Any]:
        """
        Joins the outputs of the windows of a recording.

        Args:
            model_outputs: the outputs of each window.
            top_k, min_score, return_segments, tasks, detector, return_expert_use: as for a call.

        Returns:
            {task: result}: for a classification [{"label", "score"}, ...], likeliest first; for a regression
            {rating: number}; for an embedding (size,). The enhancement gives `audio`, float32 (samples,), and its
            `sampling_rate` in Hz. The emotion also gives `segments`, if requested, and `reason` where it is missing or
            below `min_score`. `expert_use`, if requested, is {task: (T, N)}.
        """
        model = self.window_model(tasks, detector, return_expert_use)
        enhanced, segments, samples, expert_use = self._assembled(model, model_outputs, detector)
        result = self.clip_results(segments, samples, model.clip_tasks, min_score)
        for task, waveform in enhanced.items():
            if task in model.asked:
                result["audio" if task == ENHANCEMENT else task] = waveform
                result["sampling_rate"] = SAMPLING_RATE
        if EMOTION in result:
            result[EMOTION] = result[EMOTION][:top_k]
        if not return_segments:
            result.pop("segments", None)
        return {**result, "expert_use": expert_use} if return_expert_use else result

    def _assembled(
        self, model: WindowModel, model_outputs: list[dict[str, Any]], detector: DetectorFactory | None
    ) -> tuple[dict[str, np.ndarray], list[SpeechSegment], int, dict[str, np.ndarray]]:
        """Waveforms (samples,) by task, segments, number of samples, and use of the experts (T, N) by task."""
        assembler = Assembler(model, detector)
        parts: dict[str, list[np.ndarray]] = {}
        use: dict[str, list[np.ndarray]] = {}
        segments = []
        for outputs in model_outputs:
            window: Window = outputs.pop("window")
            output = model.output(window, outputs)
            joined, ended = assembler.add(window, output)
            segments += ended
            for kept, values in ((parts, joined), (use, output.expert_use)):
                for task, value in values.items():
                    kept.setdefault(task, []).append(value)
        waveforms, shares = ({task: np.concatenate(values) for task, values in kept.items()} for kept in (parts, use))
        return waveforms, segments, window.end, shares

    def clip_results(
        self, segments: list[SpeechSegment], samples: int, tasks: Sequence[str], min_score: float = 0.0
    ) -> dict[str, Any]:
        """
        Results of the clip tasks for a recording, as `postprocess` returns them.

        Args:
            segments: its segments of speech.
            samples: its number of samples.
            tasks: the clip tasks that were requested.
            min_score: as for a call.
        """
        result: dict[str, Any] = {}
        means = average(segments, self._scored) if segments else {}
        for task in tasks:
            entry = self.model.tasks[task]
            if task not in means:
                result[task] = [] if entry.kind == "classification" else None
            elif entry.kind == "classification":
                result[task] = self._ranked(task, means[task])
            elif entry.kind == "regression":
                result[task] = ratings(entry, means[task])
            else:
                result[task] = torch.nn.functional.normalize(means[task], dim=-1).numpy()
        if EMOTION in tasks:
            seconds = samples / SAMPLING_RATE
            result["segments"] = [self._described(segment, seconds, min_score) for segment in segments]
            if not segments or result[EMOTION][0]["score"] < min_score:
                result["reason"] = UNSURE if segments else NO_SPEECH
        return result

    @property
    def temperature(self) -> float:
        """The temperature of the emotion scores, 1 without calibration."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def _scored(self, task: str, output: torch.Tensor) -> torch.Tensor:
        """The values to average over segments: scores of classes, or the output (K,) of other tasks."""
        if self.model.tasks[task].kind != "classification":
            return output
        return (output / self.temperature if task == EMOTION else output).softmax(-1)

    def _described(self, segment: SpeechSegment, seconds: float, min_score: float) -> dict[str, Any]:
        ranked = self._ranked_emotion(segment.outputs)
        is_sure = ranked[0]["score"] >= min_score
        return {
            "start": round(segment.start_s, 3),
            "end": round(min(segment.end_s, math.floor(1000 * seconds) / 1000), 3),  # within the recording
            "emotion": ranked[0]["label"] if is_sure else None,
            "scores": _rounded(ranked),
            **({} if is_sure else {"reason": UNSURE}),
            **self._further_scores(segment.outputs),
        }

    def _further_scores(self, outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        """`task_outputs` with the ranked labels of further classifications, if the model has some."""
        names = [task for task in outputs if self.model.tasks[task].kind == "classification" and task != EMOTION]
        ranked = {task: self._ranked(task, self._scored(task, outputs[task][0].float())) for task in names}
        return {"task_outputs": ranked} if ranked else {}

    def _ranked_emotion(self, outputs: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        """Emotions of outputs {task: (1, K)}, likeliest first."""
        return self._ranked(EMOTION, self._scored(EMOTION, outputs[EMOTION][0].float()))

    def _ranked(self, task: str, scores: torch.Tensor) -> list[dict[str, Any]]:
        """Scores (classes,) of one recording with their labels, the highest first."""
        return ranked_labels(self.model.tasks[task].describe(self.model.config)["labels"], scores)


def _rounded(ranked: list[dict[str, Any]]) -> dict[str, float]:
    """{label: score} in the order of the labels."""
    return {entry["label"]: round(entry["score"], 6) for entry in sorted(ranked, key=lambda entry: entry["label"])}


class EmotionPipeline(SpeechEnhancementAndEmotionPipeline):
    """Recognises the emotion only; results are those of an "audio-classification" pipeline of `transformers`.

    If there is no speech, the only label is "no speech", with the score 1.

    Usage:
        >>> import transformers
        >>> pipe = transformers.pipeline("audio-classification", model="my-model", trust_remote_code=True)
        >>> pipe("call.flac", top_k=2)
        [{'label': '...', 'score': 0...}, {'label': '...', 'score': 0...}]

    Parameters, at construction or at each call:
        top_k, sampling_rate, channel, chunk_length_s, stride_length_s, detector, batch_size: as in
            `SpeechEnhancementAndEmotionPipeline`.
        function_to_apply: converts logits to scores: "softmax" (by default), "sigmoid" or "none". Only "softmax" uses
            the calibration.

    Raises:
        ValueError: the model has no task "emotion".
    """

    _parameters = f"top_k, function_to_apply, {COMMON_PARAMETERS}"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if EMOTION not in self.model.config.tasks:
            name = repr(str(self.model.name_or_path)) if self.model.name_or_path else "The model"
            raise ValueError(
                f"{name} has the tasks {self.model.config.tasks}; expected a model with the task {EMOTION!r}. Use "
                "`SpeechEnhancementAndEmotionPipeline` for other models."
            )

    # What an "audio-classification" pipeline takes and returns differs from the class above.
    def _sanitize_parameters(  # type: ignore[override]
        self,
        function_to_apply: str | None = None,
        tasks: Any = None,
        min_score: Any = None,
        return_segments: Any = None,
        return_expert_use: Any = None,
        **kwargs: Any,
    ) -> tuple[dict, dict, dict]:
        refused = {"tasks": tasks, "min_score": min_score, "return_segments": return_segments}
        refused["return_expert_use"] = return_expert_use
        if not_taken := [name for name, value in refused.items() if value is not None]:
            raise TypeError(f"Unknown arguments {not_taken}, expected {self._parameters}.")
        before, during, after = super()._sanitize_parameters(tasks=(EMOTION,), **kwargs)
        if function_to_apply is not None:
            if function_to_apply not in SCORE_FUNCTIONS:
                expected = list(SCORE_FUNCTIONS)
                raise ValueError(f"function_to_apply is {function_to_apply!r}, expected one of {expected}.")
            after["function_to_apply"] = function_to_apply
        return before, during, after

    def _of_channel(self, result: Any, channel: Channel) -> Any:
        return result

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int | None = None,
        function_to_apply: str = "softmax",
        tasks: Sequence[str] = (EMOTION,),
        detector: DetectorFactory | None = None,
    ) -> list[dict[str, Any]]:
        """
        Joins the outputs of the windows of a recording.

        Args:
            model_outputs: the outputs of each window.
            top_k, function_to_apply, tasks, detector: as for a call.

        Returns:
            [{"label", "score"}, ...], likeliest first.
        """
        _, segments, *_ = self._assembled(self.window_model(tasks, detector), model_outputs, detector)
        if not segments:
            return [{"label": NO_SPEECH, "score": 1.0}]
        temperature = self.temperature if function_to_apply == "softmax" else 1.0
        function = SCORE_FUNCTIONS[function_to_apply]
        scores = average(segments, lambda task, logits: function(logits / temperature))[EMOTION]
        return self._ranked(EMOTION, scores)[:top_k]


def _calibration_of(model: str | None, where: dict[str, Any]) -> Calibration | None:
    """The calibration of a loaded model; None, with a warning, where its file cannot be read from the Hub."""
    if not model:
        return None
    try:
        return read_calibration(model, **where)
    except OSError as error:
        logger.warning(f"The scores are not calibrated, because {model} may not be read: {error}")
        return None


def ranked_labels(labels: Sequence[str], scores: torch.Tensor) -> list[dict[str, Any]]:
    """
    Labels and scores of one recording, [{"label", "score"}, ...], the highest first.

    Args:
        labels: The classes.
        scores: (classes,).
    """
    in_order = scores.sort(descending=True)
    pairs = zip(in_order.indices.tolist(), in_order.values.tolist(), strict=True)
    return [{"label": labels[index], "score": score} for index, score in pairs]


def ratings(task: Any, predicted: torch.Tensor) -> dict[str, float]:
    """
    Ratings of one recording by their names, within their scale.

    Args:
        task: A task of the kind "regression".
        predicted: (K,).
    """
    values = predicted.float().clamp(task.minimum, task.maximum).tolist()
    return dict(zip(task.outputs, values, strict=True))


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}


def _is_column(inputs: Any) -> bool:
    """Whether this is a column of `datasets`, which need not be installed: many recordings, not one."""
    from_datasets = type(inputs).__module__.partition(".")[0] == "datasets"
    return from_datasets and isinstance(inputs, Iterable) and not hasattr(inputs, "get_all_samples")
