# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What requests and responses contain, as OpenAPI describes it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..models.sparse_merit.audio import Channel, checked_channel


def _channel(text: str) -> Channel:
    try:
        return checked_channel(text)
    except ValueError:  # it quotes the text
        raise ValueError("expected mix, left, right, a number from 1, or each") from None


class Options(BaseModel):
    """Options of a request, in its query."""

    model_config = ConfigDict(extra="forbid")

    channel: Annotated[str, AfterValidator(_channel)] = Field(
        default="mix",
        max_length=8,
        description="`mix` (mean of the channels), `left`, `right`, a number from 1, or `each`.",
    )
    tasks: list[str] | None = Field(
        default=None, description="Tasks to compute, by repetition; all of the model by default."
    )
    segments: bool = Field(default=False, description="Return the segments of speech with their emotions.")
    min_score: float = Field(default=0.0, ge=0, le=1, description="Emotions with a smaller score are unsure.")
    audio: Literal["wav", "flac"] | None = Field(
        default=None, description="Return the enhanced speech in this format."
    )


class Recording(BaseModel):
    """A recording as JSON."""

    model_config = ConfigDict(extra="forbid")

    inputs: str = Field(description="The bytes of an audio file in base64. Paths and URLs are not opened.")


class Result(BaseModel):
    """Result of a track; the fields are those of `results.jsonl`."""

    model_config = ConfigDict(extra="allow")

    seconds: float = Field(description="Duration of the recording.")
    sampling_rate: int = Field(description="Of the recording, in Hz.")
    emotion: str | None = Field(description="The likeliest emotion; null if there is none.")
    reason: Literal["no speech", "unsure"] | None = Field(default=None, description="Why `emotion` is null.")
    scores: dict[str, float] = Field(description="Score of each emotion, averaged over the segments of speech.")
    temperature: float | None = Field(None, description="Of calibrated scores.")
    enhanced: str | None = Field(
        description="Enhanced speech as a file in base64, or the name of its part in a multipart response."
    )
    channel: Channel = Field(description="`mix`, or a number from 1.")
    level_dbfs: float | None = Field(description="Level in dB relative to full scale; null for digital silence.")
    clipped_ratio: float = Field(description="Share of samples at full scale.")
    warnings: list[str] = Field(default=[], description="Anything unusual in the recording.")
    speech_seconds: float | None = Field(default=None, description="Duration of the speech.")
    segments: list[dict[str, Any]] | None = Field(
        default=None, description="Start, end, emotion and scores of each segment."
    )
    task_outputs: dict[str, Any] | None = Field(default=None, description="Results of further tasks of the model.")


class Analysis(BaseModel):
    """Response to a recording."""

    id: str = Field(description="Names this request in logs and in feedback.")
    schema_version: int = Field(description="Version of the fields of a result.")
    model: str = Field(description="Name of the model.")
    settings_hash: str = Field(description="The same for results of the same weights and options.")
    results: list[Result] = Field(description="One, or one per channel for the channel `each`.")


class Accepted(BaseModel):
    """Response to a recording in shadow mode without a primary model."""

    id: str = Field(description="Names this request in logs and in feedback.")


class Correction(BaseModel):
    """The right emotion of an analysed recording."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(max_length=64, description="The id of the response.")
    emotion: str = Field(max_length=64, description="One of the labels of the model.")
    channel: Channel | None = Field(default=None, description="Needed if the response has several results.")


class Problem(BaseModel):
    """Why a request was not fulfilled."""

    error: str = Field(description="The reason, and what to do.")
