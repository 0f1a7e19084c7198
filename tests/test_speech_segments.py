# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Frames of speech become segments; the heads that these tests make say which frames they saw."""

import numpy as np
import pytest
import torch

from modeling_sparse_merit.models.sparse_merit.speech_segments import SpeechSegment, SpeechSegments, average


def seen(features):
    """A head that gives the first number of a segment, the end of its numbers, and how many there are."""
    numbers = features["seen"][0, :, 0]
    return {"seen": torch.stack([numbers[0], numbers[-1] + 1, torch.tensor(float(len(numbers)))])[None]}


def segments_of(*pieces, missing=0, ratio=1):
    """(start, end, first frame seen, end of those) of the segments; pieces are (frames, runs of speech within).

    Each number of the features stands for `ratio` frames; the last `missing` ones of each piece are left out.
    """
    segments, timeline, first = [], SpeechSegments(seen, 320 * ratio), 0
    for frames, *runs in pieces:
        is_speech = np.zeros(frames, bool)
        for start, end in runs:
            is_speech[start:end] = True
        numbers = torch.arange(first // ratio, -(-(first + frames) // ratio) - missing).float()
        segments += timeline.add(is_speech, {"seen": numbers[:, None]})
        first += frames
    return [described(segment) for segment in segments + timeline.finish()]


def described(segment):
    first, end, count = map(int, segment.outputs["seen"][0])
    assert count == end - first  # none is missing, none comes twice
    return (segment.start, segment.end, first, end)


def test_speech_is_a_segment_with_up_to_a_second_of_what_is_around_it():
    assert segments_of((300, (100, 200))) == [(100, 200, 50, 250)]
    assert segments_of((230, (30, 200))) == [(30, 200, 0, 230)]
    assert segments_of((100, (0, 100))) == [(0, 100, 0, 100)]


@pytest.mark.parametrize("speech, pause, is_one", [(99, 24, True), (99, 25, False), (100, 14, True), (100, 15, False)])
def test_pauses_of_half_a_second_end_short_segments_and_of_0_3_s_long_ones(speech, pause, is_one):
    second = speech + pause
    middle = (speech + second + 1) // 2
    expected = [(0, speech, 0, middle), (second, second + 50, middle, second + 50)]
    actual = segments_of((second + 50, (0, speech), (second, second + 50)))
    assert actual == ([(0, second + 50, 0, second + 50)] if is_one else expected)


def test_a_segment_is_as_long_as_its_pauses_make_it():
    assert len(segments_of((200, (0, 40), (60, 100), (115, 200)))) == 2  # 2 s, with a pause of 0.4 s within
    assert len(segments_of((200, (0, 40), (60, 98), (113, 200)))) == 1  # a frame less than that


def test_a_pause_counts_across_the_borders_of_pieces():
    assert segments_of((110, (0, 105)), (100, (9, 100))) == [(0, 210, 0, 210)]  # 0.28 s
    assert segments_of((110, (0, 105)), (100, (10, 100))) == [(0, 105, 0, 110), (120, 210, 113, 210)]  # 0.3 s


def test_the_heads_see_nothing_of_other_pieces_but_the_segment():
    assert segments_of((100,), (100, (10, 90)), (100,)) == [(110, 190, 100, 200)]
    assert segments_of((100, (60, 100)), (100, (0, 40)), (100,)) == [(60, 140, 10, 190)]


def test_neighbours_share_the_pause_between_them():
    assert segments_of((400, (50, 170), (200, 320))) == [(50, 170, 0, 185), (200, 320, 185, 370)]


def test_a_long_segment_ends_before_the_piece_that_could_make_it_longer_than_10_s():
    full = (250, (0, 250))
    assert segments_of(full, full) == [(0, 500, 0, 500)]
    assert segments_of(full, full, full) == [(0, 500, 0, 500), (500, 750, 500, 750)]
    assert segments_of((99, (0, 99)), (402, (0, 402))) == [(0, 501, 0, 501)]  # the first is too short to stand alone
    assert segments_of((100, (0, 100)), (401, (0, 401))) == [(0, 100, 0, 100), (100, 501, 100, 501)]
    assert segments_of((900, (0, 900))) == [(0, 900, 0, 900)]  # no border within


def test_short_pieces_make_segments_of_10_s_at_most():
    actual = segments_of(*[(16, (0, 16))] * 100)
    assert [end - start for start, end, *_ in actual] == [496, 496, 496, 112]


def test_too_little_speech_is_no_segment():
    assert segments_of((100, (50, 59))) == []
    assert segments_of((100, (50, 60))) == [(50, 60, 0, 100)]
    assert segments_of((100, (40, 45), (50, 54))) == []
    assert segments_of((100, (40, 45), (50, 55))) == [(40, 55, 0, 100)]
    assert segments_of((200, (20, 25), (80, 120))) == [(80, 120, 30, 170)]  # a click shares no pause
    assert segments_of((100,)) == segments_of() == []


def test_the_last_frame_of_the_features_may_be_missing():
    assert segments_of((300, (100, 300)), missing=1) == [(100, 300, 50, 299)]
    assert segments_of((100, (90, 100)), missing=1) == [(90, 100, 40, 99)]


@pytest.mark.parametrize("ratio", [0.5, 2])
def test_features_may_come_at_another_rate(ratio):
    timeline = SpeechSegments(seen, round(320 * ratio))
    is_speech = np.arange(300) >= 100
    timeline.add(is_speech, {"seen": torch.arange(300 / ratio)[:, None]})
    (segment,) = timeline.finish()
    assert described(segment) == (100, 300, 50 / ratio, 300 / ratio)
    assert (segment.start_s, segment.end_s) == (2.0, 6.0)


def test_the_segment_that_goes_on_can_be_asked_for():
    timeline, numbers = SpeechSegments(seen), torch.arange(40.0)[:, None]
    assert timeline.current() is None
    assert timeline.add(np.arange(20) >= 12, {"seen": numbers[:20]}) == [] and timeline.current() is None  # 0.16 s
    assert timeline.add(np.ones(10, bool), {"seen": numbers[20:30]}) == []
    assert timeline.current()["seen"][0].tolist() == [0, 30, 30]
    (segment,) = timeline.finish()
    assert described(segment) == (12, 30, 0, 30)
    assert timeline.current() is None and timeline.finish() == []


def test_segments_do_not_depend_on_when_pauses_are_known():
    """Speech in one piece, or in pieces whose borders are pauses, is the same speech."""
    runs = [(20, 140), (170, 300), (340, 370), (390, 420)]
    whole = segments_of((460, *runs))
    cut = segments_of((155, runs[0]), (165, (15, 145)), (140, (20, 50), (70, 100)))
    assert [segment[:2] for segment in whole] == [segment[:2] for segment in cut]
    assert [segment[:2] for segment in whole] == [(20, 140), (170, 300), (340, 420)]


def test_features_of_what_is_over_are_forgotten():
    timeline = SpeechSegments(seen)
    for _ in range(200):
        timeline.add(np.arange(100) < 60, {"seen": torch.zeros(100, 1)})
        assert len(timeline._pieces) <= 1


def test_the_mean_is_weighted_by_duration():
    first = SpeechSegment(0, 100, {"a": torch.tensor([[0.0, 2.0]]), "b": torch.tensor([[4.0]])})
    second = SpeechSegment(150, 450, {"a": torch.tensor([[4.0, 6.0]]), "b": torch.tensor([[8.0]])})
    means = average([first, second], lambda task, output: output)
    assert {task: values.tolist() for task, values in means.items()} == {"a": [3.0, 5.0], "b": [7.0]}
    squares = average([first, second], lambda task, output: output**2 if task == "b" else output)
    assert squares["b"].tolist() == [(16 + 3 * 64) / 4]
    assert torch.equal(average([second], lambda task, output: output)["a"], second.outputs["a"][0])
