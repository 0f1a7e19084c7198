# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the candidate of shadow mode may send: it may run code of its checkpoint, so nothing else is accepted."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_TRACKS = 8
Name = Annotated[str, Field(max_length=64)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


class Message(BaseModel):
    """A message, without unknown fields, and with finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Description(Message):
    """The first message.

    Args:
        model: name of the model.
        settings_hash: of its results.
        labels: its emotions.
        experts: number of experts of each task that has some.
    """

    model: Annotated[str, Field(max_length=512)]
    settings_hash: Name
    labels: Annotated[list[Name], Field(max_length=64)]
    experts: Annotated[dict[Name, Annotated[int, Field(ge=1, le=256)]], Field(max_length=64)]


class Outline(Message):
    """A result, with the fields in `OUTLINE`."""

    channel: Annotated[int, Field(ge=1, le=MOST_TRACKS)] | Literal["mix"]
    emotion: Name | None
    reason: Literal["no speech", "unsure"] | None = None
    scores: Annotated[dict[Name, Share], Field(max_length=64)]
    level_dbfs: float | None
    clipped_ratio: Share


class Stages(Message):
    """Seconds of the stages."""

    decode: Seconds
    model: Seconds
    total: Seconds


class Analysed(Message):
    """The message about a recording that was analysed."""

    status: Literal[200]
    stages: Stages
    records: Annotated[list[Outline], Field(min_length=1, max_length=MOST_TRACKS)]
    audio_seconds: Annotated[float, Field(gt=0)]
    expert_frames: Annotated[dict[Name, Annotated[list[Seconds], Field(max_length=256)]], Field(max_length=64)]
    si_sdr: Annotated[list[float | None], Field(max_length=MOST_TRACKS)]

    def fits(self, description: Description) -> bool:
        """Whether labels and experts are those of the description."""
        named = {record.emotion for record in self.records} | {label for each in self.records for label in each.scores}
        sizes = {task: len(frames) for task, frames in self.expert_frames.items()}
        return named <= {None, *description.labels} and sizes.items() <= description.experts.items()


class Failed(Message):
    """The message about a recording that was not analysed."""

    status: Literal[400, 413, 500]
