# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Timelines as files: values by hand, and what other programs read."""

import csv
import html
import re
from pathlib import Path

import pytest

from modeling_sparse_merit.inference.files import segments_path
from modeling_sparse_merit.inference.segments import SegmentFormat, write_segments

LABELS = ["sad", "angry", "very happy"]
SEGMENTS = [
    {"start": 0.52, "end": 3.1, "emotion": "angry", "scores": {"angry": 0.714, "sad": 0.2, "very happy": 0.086}},
    {
        "start": 3.1,
        "end": 4.0004,
        "emotion": None,
        "reason": "unsure",
        "scores": {"angry": 0.4, "sad": 0.3, "very happy": 0.3},
    },
    {
        "start": 3_725.25,
        "end": 3_726.0,
        "emotion": "very happy",
        "scores": {"angry": 0, "sad": 1 / 3, "very happy": 2 / 3},
    },
]


def written(folder: Path, kind: str, segments=SEGMENTS, labels=LABELS, name="my call.wav", channel=1) -> str:
    path = segments_path(folder / "a.enhanced.wav", kind)
    write_segments(path, segments, kind, labels, name, channel)
    return path.read_bytes().decode()


def cues_of(text: str) -> list[tuple[float, float, str]]:
    """Cues of a WebVTT file as a player reads them: blocks between blank lines, times, then text with entities."""
    header, *blocks = re.split(r"\n\n+", text.rstrip("\n"))
    assert header.split("\n")[0] == "WEBVTT"
    cues = []
    for block in blocks:
        times, *lines = block.split("\n")
        if times.startswith("NOTE"):
            assert "-->" not in block
            continue
        stamp = r"(\d{2,}):([0-5]\d):([0-5]\d\.\d{3})"
        (*match,) = re.fullmatch(f"{stamp} --> {stamp}", times).groups()
        start, end = (int(h) * 3600 + int(m) * 60 + float(s) for h, m, s in (match[:3], match[3:]))
        assert len(lines) == 1 and not re.search(r"[<>]|&(?!amp;|lt;|gt;)", lines[0])
        cues.append((start, end, html.unescape(lines[0])))
    return cues


def test_files_lie_next_to_the_enhanced_one():
    target = Path("out/a.b.enhanced.wav")
    names = [segments_path(target, kind).as_posix() for kind in SegmentFormat]
    assert names == ["out/a.b.segments.csv", "out/a.b.segments.vtt", "out/a.b.segments.rttm"]
    with pytest.raises(ValueError, match="srt"):
        segments_path(target, "srt")


def test_csv_has_a_row_for_each_segment(tmp_path):
    assert written(tmp_path, "csv").split("\r\n") == [
        "start,end,emotion,angry,sad,very happy",
        "0.520,3.100,angry,0.714000,0.200000,0.086000",
        "3.100,4.000,,0.400000,0.300000,0.300000",
        "3725.250,3726.000,very happy,0.000000,0.333333,0.666667",
        "",
    ]


def test_csv_quotes_labels(tmp_path):
    label = 'so "so", la'
    text = written(tmp_path, "csv", [{"start": 0, "end": 1, "emotion": label, "scores": {label: 1.0}}], [label])
    assert list(csv.reader(text.splitlines())) == [
        ["start", "end", "emotion", label],
        ["0.000", "1.000", label, "1.000000"],
    ]


def test_vtt_is_read_back(tmp_path):
    assert cues_of(written(tmp_path, "vtt")) == [
        (0.52, 3.1, "angry 71 %"),
        (3.1, 4.0, "unsure"),
        (3_725.25, 3_726.0, "very happy 67 %"),
    ]
    assert "01:02:05.250 --> 01:02:06.000" in written(tmp_path, "vtt")


def test_vtt_escapes_what_it_reserves(tmp_path):
    label = "<b>calm</b> & --> \n\nbored"
    segments = [{"start": 360_000, "end": 360_001.5, "emotion": label, "scores": {label: 0.5}}]
    text = written(tmp_path, "vtt", segments, [label], name="a --> b\n\nc.wav")
    assert cues_of(text) == [(360_000, 360_001.5, "<b>calm</b> & --> bored 50 %")]


def test_rttm_has_ten_fields_and_no_unsure_segments(tmp_path):
    assert written(tmp_path, "rttm", channel=2).splitlines() == [
        "SPEAKER my_call 2 0.520 2.580 <NA> <NA> angry 0.714000 <NA>",
        "SPEAKER my_call 2 3725.250 0.750 <NA> <NA> very_happy 0.666667 <NA>",
    ]


def test_a_segment_without_scores_has_no_score(tmp_path):
    segments = [{"start": 0, "end": 1, "emotion": "sad"}]
    assert cues_of(written(tmp_path, "vtt", segments)) == [(0, 1, "sad")]
    assert written(tmp_path, "csv", segments).splitlines()[1] == "0.000,1.000,sad,,,"
    assert written(tmp_path, "rttm", segments) == "SPEAKER my_call 1 0.000 1.000 <NA> <NA> sad <NA> <NA>\n"


def test_transcripts_are_a_column_and_a_second_line(tmp_path):
    segments = [
        {"start": 0, "end": 1, "emotion": "sad", "transcript": "No, <never>\n&  so\u2026"},
        {"start": 1, "end": 2, "emotion": None, "transcript": ""},
    ]
    path = tmp_path / "a.segments.csv"
    write_segments(path, segments, "csv", ["sad"], "a.wav", has_transcripts=True)
    assert path.read_bytes().decode() == (
        'start,end,emotion,sad,transcript\r\n0.000,1.000,sad,,"No, <never>\n&  so\u2026"\r\n1.000,2.000,,,\r\n'
    )
    assert written(tmp_path, "vtt", segments).endswith(
        "00:00:00.000 --> 00:00:01.000\nsad\nNo, &lt;never&gt; &amp; so\u2026\n\n"
        "00:00:01.000 --> 00:00:02.000\nunsure\n"
    )
    assert written(tmp_path, "rttm", segments) == "SPEAKER my_call 1 0.000 1.000 <NA> <NA> sad <NA> <NA>\n"


def test_rounding_leaves_no_segment_empty_and_none_overlapping(tmp_path):
    times = [0.0, 0.0001, 0.0002, 0.0003, 0.0012, 0.5004999, 0.5005001, 0.9995, 1.0]
    segments = [
        {"start": start, "end": end, "emotion": "sad", "scores": {"sad": 1.0}}
        for start, end in zip(times, times[1:], strict=False)
    ]
    cues = cues_of(written(tmp_path, "vtt", segments))
    assert all(start < end for start, end, _ in cues)
    assert all(first[1] <= second[0] for first, second in zip(cues, cues[1:], strict=False))
    for kind in ("csv", "rttm"):
        assert len(re.findall("sad", written(tmp_path, kind, segments, []))) == len(segments)
    for line in written(tmp_path, "rttm", segments).splitlines():
        assert float(line.split()[4]) > 0


def test_no_segments_are_valid_files(tmp_path):
    assert written(tmp_path, "csv", []) == "start,end,emotion,angry,sad,very happy\r\n"
    assert cues_of(written(tmp_path, "vtt", [])) == []
    assert written(tmp_path, "rttm", []) == ""


@pytest.mark.parametrize(
    "times", [[(1, 0.5)], [(0, 2), (1, 3)], [(2, 3), (0, 1)], [(0, float("inf"))], [(float("nan"), 1)]]
)
def test_impossible_times_write_nothing(tmp_path, times):
    segments = [{"start": start, "end": end, "emotion": None} for start, end in times]
    with pytest.raises(ValueError, match="expected segments in order"):
        written(tmp_path, "vtt", segments)
    assert list(tmp_path.iterdir()) == []
