# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The timeline of a recording as a file: CSV for tables, WebVTT for players, RTTM for tools of diarization."""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path, PurePath
from typing import NamedTuple, NotRequired, TypedDict

from ..files import replacing

UNSURE = "unsure"
ROUNDING = 0.0005  # seconds


class SegmentFormat(StrEnum):
    """Formats of a timeline."""

    CSV = "csv"
    VTT = "vtt"
    RTTM = "rttm"


class Segment(TypedDict):
    """A span of a recording with one emotion.

    Args:
        start, end: in seconds from the start of the recording.
        emotion: the likeliest one; None where its score is too low to tell.
        scores: probability of each emotion.
        reason: "unsure" where `emotion` is None.
    """

    start: float
    end: float
    emotion: str | None
    scores: NotRequired[dict[str, float]]
    reason: NotRequired[str]


class _Cue(NamedTuple):
    """A segment with its times in whole milliseconds."""

    start: int
    end: int
    emotion: str | None
    scores: dict[str, float]

    @property
    def score(self) -> float | None:
        """Probability of the emotion."""
        return None if self.emotion is None else self.scores.get(self.emotion)


def write_segments(
    path: Path, segments: Iterable[Segment], kind: str, labels: Iterable[str], name: str, channel: int = 1
) -> None:
    """Writes the timeline of a recording, completely or not at all.

    Times are rounded to milliseconds; a segment keeps 1 ms at least, and none reaches into the next one.

    Args:
        path: the file, as of `segments_path`.
        segments: in the order of time, not overlapping.
        kind: "csv", "vtt" or "rttm".
        labels: all emotions of the model; the columns of a CSV.
        name: of the recording, as `call.wav`.
        channel: its number, from 1.

    Raises:
        ValueError: there is no such format, or a segment ends before it starts or starts before another one ends.
        OSError: the file cannot be written.

    Usage:
        >>> segments = [{"start": 0.5, "end": 2.0, "emotion": "sad", "scores": {"happy": 0.2, "sad": 0.8}}]
        >>> write_segments(Path("call.segments.vtt"), segments, "vtt", ["happy", "sad"], "call.wav")
    """
    kind, cues = SegmentFormat(kind), _cues(segments)
    if kind is SegmentFormat.CSV:
        content = _csv(cues, sorted(labels))
    elif kind is SegmentFormat.VTT:
        content = _vtt(cues, name)
    else:
        content = _rttm(cues, name, channel)
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="")


def _cues(segments: Iterable[Segment]) -> list[_Cue]:
    """Rounds times to milliseconds; what that would leave empty gets 1 ms, at the expense of what follows."""
    cues: list[_Cue] = []
    last, free = 0.0, 0  # end of the segment before, in seconds, and of its cue, in milliseconds
    for segment in segments:
        start, end = segment["start"], segment["end"]
        if not last - ROUNDING <= start <= end < math.inf:
            raise ValueError(f"A segment from {start} to {end} s follows {last} s; expected order and no overlap.")
        first = max(round(1000 * start), free)
        last, free = end, max(round(1000 * end), first + 1)
        cues.append(_Cue(first, free, segment["emotion"], segment.get("scores") or {}))
    return cues


def _csv(cues: Sequence[_Cue], labels: list[str]) -> str:
    """A row for each segment: times in seconds, the emotion, empty where unsure, and the score of each label.

    Common Format and MIME Type for Comma-Separated Values, RFC 4180.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["start", "end", "emotion", *labels])
    for cue in cues:
        scores = [f"{cue.scores[label]:.6f}" if label in cue.scores else "" for label in labels]
        writer.writerow([_seconds(cue.start), _seconds(cue.end), cue.emotion or "", *scores])
    return table.getvalue()


def _vtt(cues: Sequence[_Cue], name: str) -> str:
    """A cue for each segment. WebVTT: The Web Video Text Tracks Format, W3C, section 4 (https://www.w3.org/TR/webvtt1)."""
    blocks = ["WEBVTT", f"NOTE Emotions of {_vtt_text(name)}"]
    blocks += [f"{_timestamp(cue.start)} --> {_timestamp(cue.end)}\n{_vtt_text(_caption(cue))}" for cue in cues]
    return "\n\n".join(blocks) + "\n"


def _rttm(cues: Sequence[_Cue], name: str, channel: int) -> str:
    """A line for each segment whose emotion is known.

    Its fields are type, file (no folder, no extension), channel, start and duration in seconds, orthography, subtype,
    name, confidence, and signal lookahead. The 2009 (RT-09) Rich Transcription Meeting Recognition Evaluation Plan,
    NIST, appendix A.
    """
    lines = []
    for cue in cues:
        if cue.emotion is not None:
            score = "<NA>" if cue.score is None else f"{cue.score:.6f}"
            times = f"{_seconds(cue.start)} {_seconds(cue.end - cue.start)}"
            speaker = f"SPEAKER {_field(PurePath(name).stem)} {channel} {times}"
            lines.append(f"{speaker} <NA> <NA> {_field(cue.emotion)} {score} <NA>\n")
    return "".join(lines)


def _caption(cue: _Cue) -> str:
    if cue.emotion is None:
        return UNSURE
    return cue.emotion if cue.score is None else f"{cue.emotion} {cue.score:.0%}".replace("%", " %")


def _vtt_text(text: str) -> str:
    """Text of one line with the characters that WebVTT reserves as entities."""
    text = " ".join(text.split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _field(text: str) -> str:
    """A field of RTTM; white space would end it."""
    return re.sub(r"\s", "_", text) or "<NA>"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds // 1000}.{milliseconds % 1000:03}"


def _timestamp(milliseconds: int) -> str:
    """`HH:MM:SS.mmm`; hours have more digits where they need them."""
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
