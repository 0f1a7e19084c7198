# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Enrolment and verification of speakers, by the embeddings of a task such as `speaker`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline


class SpeakerVerifier:
    """Compares recordings with the voices of enrolled speakers.

    A voice is biometric data: enrol people only with their consent. Which similarity means the same speaker depends on
    model and recordings, so choose a threshold on pairs of your own.

    Args:
        pipe: a pipeline whose model has a task with embeddings.
        task: its name.

    Raises:
        ValueError: the model has no such task.

    Usage:
        >>> verifier = SpeakerVerifier(pipe)  # doctest: +SKIP
        >>> verifier.enrol("ann", ["ann1.wav", "ann2.wav"])  # doctest: +SKIP
        >>> verifier.similarity("call.wav", "ann")  # doctest: +SKIP
        0.71
    """

    def __init__(self, pipe: SpeechEnhancementAndEmotionPipeline, task: str = "speaker"):
        kinds = {name: entry.kind for name, entry in pipe.model.tasks.items()}
        if kinds.get(task) != "embedding":
            raise ValueError(
                f"The model has no embeddings {task!r}; its tasks are {kinds}. Train a task of this kind."
            )
        self._pipe, self._task = pipe, task
        self._voices: dict[str, np.ndarray] = {}

    @property
    def speakers(self) -> list[str]:
        """The enrolled speakers."""
        return list(self._voices)

    def enrol(self, speaker: str, recordings: Sequence[Any]) -> None:
        """Enrols a speaker, or replaces the voice of one: the mean of the embeddings of some recordings.

        Args:
            speaker: a name.
            recordings: recordings of this speaker alone, in any form that the pipeline takes.

        Raises:
            ValueError: there is no recording, or one has no speech.
        """
        if not len(recordings):
            raise ValueError(f"There is no recording of {speaker!r}; expected at least one.")
        mean = np.mean([self.embedding(recording) for recording in recordings], axis=0)
        self._voices[speaker] = mean / np.linalg.norm(mean)

    def embedding(self, recording: Any) -> np.ndarray:
        """The embedding of a recording, (size,) of length 1.

        Raises:
            ValueError: the recording cannot be used, or has no speech.
        """
        vector = self._pipe(recording, tasks=(self._task,))[self._task]
        if vector is None:
            raise ValueError("The recording has no speech, so it has no voice. Give another one.")
        return np.asarray(vector)

    def similarity(self, recording: Any, speaker: str) -> float:
        """Cosine similarity of a recording and the voice of a speaker, from -1 to 1.

        Args:
            recording: in any form that the pipeline takes.
            speaker: the name of an enrolled speaker.

        Raises:
            ValueError: the recording cannot be used or has no speech, or the speaker is not enrolled.
        """
        if speaker not in self._voices:
            raise ValueError(f"{speaker!r} is not enrolled; those who are: {', '.join(self._voices) or 'nobody'}.")
        return float(self.embedding(recording) @ self._voices[speaker])

    def rank(self, recording: Any) -> list[dict[str, Any]]:
        """The enrolled speakers by similarity to a recording, as {"label", "score"}, the most similar first.

        Raises:
            ValueError: the recording cannot be used or has no speech.
        """
        vector = self.embedding(recording)
        scores = {speaker: float(vector @ voice) for speaker, voice in self._voices.items()}
        return [
            {"label": each, "score": scores[each]} for each in sorted(scores, key=scores.__getitem__, reverse=True)
        ]
