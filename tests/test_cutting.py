# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Windows join to the recording, are cut where it is quiet or changes its level, and do not depend on the blocks."""

import sys

import numpy as np
import pytest

from modeling_sparse_merit.models.sparse_merit.cutting import FRAME, SAMPLING_RATE, WindowCutter, frames_of

SHORT = (2.4, 0.04)  # the shortest windows, nearly, that are cut in pauses


def noise(seconds: float, dbfs: float = -20.0, seed: int = 0) -> np.ndarray:
    """White noise of an RMS in dBFS."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * SAMPLING_RATE))
    return (10 ** (dbfs / 20) * samples).astype(np.float32)


def phrases(*lengths: float, pause: float = 0.4) -> np.ndarray:
    """Noise of these lengths in seconds, with pauses 40 dB below it between them."""
    parts = [noise(pause, -60, seed=100)]
    for seed, length in enumerate(lengths):
        parts += [noise(length, seed=seed), noise(pause, -60, seed=100 + seed)]
    return np.concatenate(parts)


def windows_of(recording, *arguments, blocks=None):
    """All windows of a recording that comes in blocks of these lengths, or at once."""
    cutter, windows, place = WindowCutter(*arguments), [], 0
    for length in blocks or [len(recording)]:
        windows += cutter.add(recording[place : place + length])
        place += length
    return windows + cutter.add(recording[place:]) + cutter.finish()


def cuts(recording, *arguments):
    """Where pieces begin, in seconds, but for the first."""
    return [window.start / SAMPLING_RATE for window in windows_of(recording, *arguments)[1:]]


def assert_windows_fit(windows, recording, chunk, left, right):
    """Checks all that is promised of every window, sizes in frames, by slicing the recording."""
    assert [window.start for window in windows] == [0, *(window.end for window in windows[:-1])]
    assert windows[-1].end == len(recording)
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
    for window in windows:
        before = left if window.end - window.start >= 400 else max(left, 2)  # one frame of the encoder, at least
        start = max(0, window.start - before * FRAME)
        expected = recording[start : window.end + right * FRAME]
        np.testing.assert_array_equal(window.waveform, expected)
        np.testing.assert_array_equal(window.piece, recording[window.start : window.end])
        assert window.start % FRAME == 0 and window.left == window.start - start
        assert window.right == min(right * FRAME, len(recording) - window.end)
        assert len(window.waveform) <= chunk * FRAME


SETTINGS = [
    ((10.0, 0.04), (500, 2, 2)),
    (SHORT, (120, 2, 2)),
    ((4.0, (0.5, 1.0)), (200, 25, 50)),
    ((8.0, (0.0, 2.6)), (400, 0, 130)),  # more context than the cut waits for
    ((2.0, (1.6, 0.08)), (100, 80, 4)),
    ((0.3, (0.1, 0.0)), (15, 5, 0)),
    ((1.0, 0.03), (50, 2, 2)),  # 1.5 frames, rounded to even
    ((1.0, 0.0), (50, 0, 0)),
]


@pytest.mark.parametrize("arguments, frames", SETTINGS)
@pytest.mark.parametrize("samples", [400, 639, 640, 16_000, 16_001, 32_000, 160_000, 160_100, 333_333])
def test_pieces_join_to_the_recording(arguments, frames, samples):
    recording = phrases(1.3, 2.7, 0.6, 9.0, 4.0)[:samples]
    assert_windows_fit(windows_of(recording, *arguments), recording, *frames)


@pytest.mark.parametrize("arguments, frames", SETTINGS)
def test_windows_do_not_depend_on_the_blocks(arguments, frames):
    recording = phrases(1.3, 2.7, 0.6, 9.0, 4.0)
    whole = windows_of(recording, *arguments)
    for seed in range(2):
        lengths = np.random.default_rng(seed).choice([0, 1, 7, 160, 320, 5_000, 70_000], 500).tolist()
        assert_same(windows_of(recording, *arguments, blocks=lengths), whole)


@pytest.mark.parametrize("arguments", [SHORT, (0.4, (0.1, 0.04))])
def test_blocks_of_one_sample_change_nothing(arguments):
    recording = phrases(0.6, 0.8)
    assert_same(windows_of(recording, *arguments, blocks=[1] * len(recording)), windows_of(recording, *arguments))


def assert_same(windows, expected):
    assert [(w.start, w.end, w.left, w.is_last) for w in windows] == [
        (w.start, w.end, w.left, w.is_last) for w in expected
    ]
    for window, other in zip(windows, expected, strict=True):
        np.testing.assert_array_equal(window.waveform, other.waveform)


def test_cuts_fall_into_pauses():
    recording = phrases(*[1.8] * 10)  # the n-th pause is from 2.2 n s to 2.2 n + 0.4 s
    for chunk in (3.0, 10.0):
        actual = cuts(recording, chunk)
        assert len(actual) >= 2
        assert all(cut % 2.2 < 0.4 for cut in actual)


def test_a_short_pause_is_better_than_none():
    recording = np.concatenate([noise(7), noise(0.1, -60), noise(7, seed=1)])
    assert min(abs(cut - 7.05) for cut in cuts(recording)) <= 0.05


@pytest.mark.parametrize("seconds", [6.0, 20.0])
@pytest.mark.parametrize("levels", [(-20, -40), (-40, -20)])
def test_a_step_of_20_db_is_cut_there(seconds, levels):
    recording = np.concatenate([noise(seconds / 2, level, seed=seed) for seed, level in enumerate(levels)])
    after = min((cut - seconds / 2 for cut in cuts(recording)), key=abs)
    into_quiet = after if levels[0] > levels[1] else -after
    assert 0 <= into_quiet <= 0.061  # so that nothing loud is in the quiet piece


def test_a_recording_that_fits_into_a_window_is_cut_where_its_level_changes_alone():
    assert cuts(phrases(1.8, 1.8, 1.8)) == []
    (cut,) = cuts(np.concatenate([phrases(1.8, 1.8), phrases(1.8) / 10]))
    assert cut == pytest.approx(4.8, abs=0.4)  # where both pauses meet
    assert cuts(np.concatenate([phrases(1.8, 1.8), phrases(1.8) / 2])) == []


def test_cuts_move_with_the_recording():
    recording = phrases(*np.random.default_rng(3).uniform(0.4, 2.5, 25))
    original = [cut for cut in cuts(recording) if cut > 10]
    assert len(original) >= 4
    for frames in (1, 7, 50, 123):
        shifted = cuts(np.concatenate([noise(frames / 50, -60), recording]))
        assert [cut - frames / 50 for cut in shifted if cut - frames / 50 > 10] == pytest.approx(original, abs=1e-9)


def test_silence_is_cut_into_whole_windows():
    windows = windows_of(np.zeros(60 * SAMPLING_RATE, np.float32))
    assert [window.end - window.start for window in windows[:5]] == [496 * FRAME] * 5  # 500 frames less both contexts


def test_fixed_windows_follow_each_other():
    windows = windows_of(noise(3.0)[: 2 * 16_000 + 1], 2.0, (1.6, 0.08))
    assert [window.start for window in windows] == list(range(0, 32_001, 5_120))  # 0.32 s
    assert all(window.is_fixed and window.measured is window.waveform for window in windows)
    (window,) = windows_of(noise(1.0))
    assert not window.is_fixed and len(window.measured) == 16_000


@pytest.mark.parametrize("samples", [16_000, 16_001, 15_999])
def test_the_last_piece_is_marked_where_windows_have_no_right_context(samples):
    windows = windows_of(noise(2.0)[:samples], 0.5, (0.3, 0.0), blocks=[320] * 60)  # pieces of 0.2 s
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
    assert len(windows[-1].waveform) >= 400


def test_no_samples_give_no_windows():
    cutter = WindowCutter()
    assert cutter.add(np.empty(0, np.float32)) == cutter.finish() == []


def test_an_hour_takes_no_more_memory_than_a_minute():
    cutter, block, held = WindowCutter(), noise(2.0), []
    for _ in range(1800):
        cutter.add(block)
        held.append(sum(bytes_of(value) for value in vars(cutter).values()))
    assert max(held[30:]) <= 1.2 * max(held[:30]) < 2_000_000  # 13 s of float32 are 0.83 MB


def bytes_of(value) -> int:
    """Bytes of all arrays within."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list):
        return sum(map(bytes_of, value))
    return sum(map(bytes_of, vars(value).values())) if hasattr(value, "__dict__") else sys.getsizeof(value)


@pytest.mark.parametrize("arguments", [(0.1, 0.0), (0.3, (0.1, 0.0)), (2.0, (1.6, 0.08)), SHORT, (10.0, (2.0, 2.0))])
def test_a_sample_is_never_later_than_the_latency(arguments):
    recording, lags = phrases(0.5, 4.0, 1.0, 12.0, 2.0), []
    cutter, known = WindowCutter(*arguments), 0
    for given in range(160, len(recording) + 1, 160):
        known = max([known, *(window.end for window in cutter.add(recording[given - 160 : given]))])
        lags.append((given - known) / SAMPLING_RATE)
    assert max(lags) <= cutter.latency_s


def test_sizes_are_rounded_to_20_ms():
    assert frames_of(10.0, 0.04) == (2, 2, 496)
    assert frames_of(2.0, (1.6, 0.08)) == (80, 4, 16)
    assert frames_of(1.0, [0.11, 0.0]) == (6, 0, 44)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((10.0, -0.1), "10.0, -0.1; expected seconds, .* none of them negative"),
        ((10.0, (0.1, 0.1, 0.1)), "the stride one number or"),
        ((float("nan"), 0.1), "nan, 0.1; expected seconds"),
        ((float("inf"), 0.1), "inf, 0.1; expected seconds"),
        ((1.0, 0.5), "1.0, 0.5; expected 0.1 s or more between the left and the right context"),
        ((0.08, 0.0), "expected 0.1 s or more"),
        ((-1.0, 0.0), "none of them negative"),
    ],
)
def test_impossible_windows_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        WindowCutter(*arguments)
