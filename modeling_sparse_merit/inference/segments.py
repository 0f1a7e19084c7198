# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Writes the timeline of a recording as CSV, WebVTT (for players) or RTTM (for diarization tools)."""

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


class ContextEmotion(TypedDict):
    """The emotion of a segment in the context of the others, by a conversation model.

    Args:
        emotion: the most probable one; None if its score is too low.
        scores: probability of each emotion.
        gate: weight of each expert.
    """

    emotion: str | None
    scores: dict[str, float]
    gate: dict[str, float]


class Segment(TypedDict):
    """A span of a recording with one emotion.

    Args:
        start, end: seconds from the start of the recording.
        emotion: the most probable one; None if its score is too low.
        scores: probability of each emotion.
        reason: "unsure" if `emotion` is None.
        transcript: what is said; absent if it was not asked for.
        distress: see `distress_curve`; absent if it was not asked for.
        context: the emotion in the context of the other segments; absent if it was not asked for.
    """

    start: float
    end: float
    emotion: str | None
    scores: NotRequired[dict[str, float]]
    reason: NotRequired[str]
    transcript: NotRequired[str]
    distress: NotRequired[float]
    context: NotRequired[ContextEmotion]


class _Cue(NamedTuple):
    """A segment with its times in whole milliseconds."""

    start: int
    end: int
    emotion: str | None
    scores: dict[str, float]
    transcript: str
    distress: float | None
    context: ContextEmotion | None = None

    @property
    def score(self) -> float | None:
        """Probability of the emotion."""
        return None if self.emotion is None else self.scores.get(self.emotion)


def write_segments(
    path: Path,
    segments: Iterable[Segment],
    kind: str,
    labels: Iterable[str],
    name: str,
    channel: int = 1,
    has_transcripts: bool = False,
    has_distress: bool = False,
    context_labels: Sequence[str] = (),
    context_experts: Sequence[str] = (),
) -> None:
    """Writes the timeline of a recording atomically.

    Times are rounded to milliseconds; segments last at least 1 ms and do not overlap.

    Args:
        path: the file, for example from `segments_path`.
        segments: segments in temporal order, without overlap.
        kind: "csv", "vtt" or "rttm".
        labels: all emotions of the model; the score columns of a CSV.
        name: name of the recording, such as `call.wav`.
        channel: number of the channel, from 1.
        has_transcripts: whether a CSV has a column for the transcripts. WebVTT has those that there are, RTTM none.
        has_distress: whether a CSV has a column for the distress; the other formats have none.
        context_labels, context_experts: emotions and experts of the conversation model; the columns of a CSV for the
            emotion with context. WebVTT has a line with it, RTTM none.

    Raises:
        ValueError: the format is unknown, or a segment ends before it starts or overlaps with another one.
        OSError: the file cannot be written.

    Usage:
        >>> segments = [{"start": 0.5, "end": 2.0, "emotion": "sad", "scores": {"happy": 0.2, "sad": 0.8}}]
        >>> write_segments(Path("call.segments.vtt"), segments, "vtt", ["happy", "sad"], "call.wav")
    """
    kind, cues = SegmentFormat(kind), _cues(segments)
    if kind is SegmentFormat.CSV:
        context = [f"context_{name}" for name in ("emotion", *sorted(context_labels))] if context_labels else []
        context += [f"gate_{name}" for name in context_experts]
        content = _csv(cues, sorted(labels), has_transcripts, has_distress, context)
    elif kind is SegmentFormat.VTT:
        content = _vtt(cues, name)
    else:
        content = _rttm(cues, name, channel)
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="")


def _cues(segments: Iterable[Segment]) -> list[_Cue]:
    """Rounds times to milliseconds; segments that would become empty get 1 ms, taken from the following ones."""
    cues: list[_Cue] = []
    last, free = 0.0, 0  # end of the previous segment in seconds, and of its cue in milliseconds
    for segment in segments:
        start, end = segment["start"], segment["end"]
        if not last - ROUNDING <= start <= end < math.inf:
            raise ValueError(
                f"A segment from {start} to {end} s follows one that ends at {last} s; expected segments in order, "
                "without overlap."
            )
        first = max(round(1000 * start), free)
        last, free = end, max(round(1000 * end), first + 1)
        further = segment.get("transcript", ""), segment.get("distress"), segment.get("context")
        cues.append(_Cue(first, free, segment["emotion"], segment.get("scores") or {}, *further))
    return cues


def _csv(
    cues: Sequence[_Cue], labels: list[str], has_transcripts: bool, has_distress: bool, context: list[str]
) -> str:
    """One row per segment: times in seconds, the emotion (empty if unsure), score of each label, transcript, distress,
    and emotion, scores and weights of the experts of the conversation model.

    Common Format and MIME Type for Comma-Separated Values, RFC 4180.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    further = [name for name, is_asked in (("transcript", has_transcripts), ("distress", has_distress)) if is_asked]
    writer.writerow(["start", "end", "emotion", *labels, *further, *context])
    for cue in cues:
        scores = [f"{cue.scores[label]:.6f}" if label in cue.scores else "" for label in labels]
        values = [getattr(cue, name) for name in further]
        values += [_context_values(cue.context).get(name, "") for name in context]
        writer.writerow([_seconds(cue.start), _seconds(cue.end), cue.emotion or "", *scores, *values])
    return text.getvalue()


def _context_values(context: ContextEmotion | None) -> dict[str, str]:
    """The cells of an emotion with context, by the names of their columns."""
    if context is None:
        return {}
    scores = {f"context_{label}": f"{score:.6f}" for label, score in context["scores"].items()}
    gate = {f"gate_{expert}": f"{weight:.6f}" for expert, weight in context["gate"].items()}
    return {"context_emotion": context["emotion"] or "", **scores, **gate}


def _vtt(cues: Sequence[_Cue], name: str) -> str:
    """One cue per segment, with the emotion with context and the transcript in further lines.

    WebVTT: The Web Video Text Tracks Format, W3C, section 4 (https://www.w3.org/TR/webvtt1).
    """
    blocks = ["WEBVTT", f"NOTE Emotions of {_vtt_text(name)}"]
    for cue in cues:
        lines = [_vtt_text(line) for line in (_caption(cue), _context_caption(cue), cue.transcript) if line]
        blocks.append("\n".join([f"{_timestamp(cue.start)} --> {_timestamp(cue.end)}", *lines]))
    return "\n\n".join(blocks) + "\n"


def _rttm(cues: Sequence[_Cue], name: str, channel: int) -> str:
    """One line per segment with a known emotion.

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


def _context_caption(cue: _Cue) -> str:
    """The emotion with context; empty without one."""
    if cue.context is None:
        return ""
    return f"with context: {_caption(cue._replace(emotion=cue.context['emotion'], scores=cue.context['scores']))}"


def _vtt_text(text: str) -> str:
    """Text in one line, with the reserved characters of WebVTT as entities."""
    text = " ".join(text.split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _field(text: str) -> str:
    """A field of RTTM, without whitespace, which would end it."""
    return re.sub(r"\s", "_", text) or "<NA>"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds // 1000}.{milliseconds % 1000:03}"


def _timestamp(milliseconds: int) -> str:
    """`HH:MM:SS.mmm`, with more digits for the hours if needed."""
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
