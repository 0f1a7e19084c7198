# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Overviews of signals: values by hand and by direct computation, bounded memory."""

import numpy as np
import pytest

from modeling_sparse_merit.plotting.overview import Columns, Overview

RATE = 1_000


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples, dtype=np.float32)


def test_overview_of_a_short_signal_is_its_spectrogram_and_its_samples():
    rate, waveform = 16_000, noise(8_001)
    overview = Overview.of(waveform, rate)
    padded = np.pad(waveform.astype(float), 256)
    frames = np.stack([padded[start : start + 512] * np.hanning(512) for start in range(0, 8_001 + 1, 128)])
    expected = 10 * np.log10(np.abs(np.fft.rfft(frames)).T ** 2 + 1e-12)
    assert overview.levels.shape == expected.shape == (257, 63)
    np.testing.assert_allclose(overview.levels, expected, atol=0.02)
    assert overview.column_seconds == 0.008 and overview.seconds == 8_001 / rate
    assert overview.peak == np.abs(waveform).max()
    times, low, high = overview.envelope
    np.testing.assert_array_equal(low[:-1], waveform[:8_000].reshape(-1, 4).min(axis=1))
    np.testing.assert_array_equal(high[:-1], waveform[:8_000].reshape(-1, 4).max(axis=1))
    assert low[-1] == high[-1] == waveform[-1]
    assert times[0] == 2 / rate and times[-1] == 8_000.5 / rate


def test_neighbours_are_merged_where_there_are_too_many():
    columns = Columns(np.add, np.empty(0), limit=4)
    for items, values, step, counts in (
        ([1, 2, 3], [1, 2, 3], 1, [1, 1, 1]),
        ([4, 5], [3, 7, 5], 2, [2, 2, 1]),
        ([6, 7], [3, 7, 11, 7], 2, [2, 2, 2, 1]),
        ([8, 9, 10, 11], [10, 26, 30], 4, [4, 4, 3]),
        ([], [10, 26, 30], 4, [4, 4, 3]),
    ):
        columns = columns.plus(np.array(items, float))
        assert (columns.values.tolist(), columns.step, columns.counts.tolist()) == (values, step, counts)


def test_power_of_merged_columns_is_their_mean():
    half = np.zeros(120 * RATE, np.float32)
    half[: len(half) // 2] = np.sin(2 * np.pi * 250 * np.arange(len(half) // 2) / RATE)
    overview = Overview.of(half, RATE)
    tone = 20 * np.log10(np.hanning(32).sum() / 2)  # amplitude 1 at the centre of a frequency, 250 Hz
    levels = overview.levels[8]
    assert levels.shape == (15_001 // 8 + 1,)  # windows every 8 samples, eight to a column
    np.testing.assert_allclose(levels[1:930], tone, atol=0.01)
    assert (levels[945:] == pytest.approx(-120)) and overview.column_seconds == 0.064
    times, low, high = overview.envelope
    assert len(times) == 120_000 // 64 and np.ptp(times) == pytest.approx(120, abs=0.1)
    assert (high[times < 59.9] == pytest.approx(1, abs=1e-3)) and (high[times > 60.1] == 0).all()


@pytest.mark.parametrize("size", [1, 7, 999, 8_192, 30_000])
def test_sizes_of_blocks_do_not_matter(size):
    waveform = noise(40_000)[: 3_000 if size == 1 else None]
    whole, blocks = Overview.of(waveform, RATE), Overview(RATE)
    for start in range(0, len(waveform), size):
        blocks.add(waveform[start : start + size])
    np.testing.assert_array_equal(blocks.levels, whole.levels)
    np.testing.assert_array_equal(blocks.envelope, whole.envelope)


def test_reading_an_overview_does_not_end_it():
    waveform, overview = noise(5_000), Overview(RATE)
    overview.add(waveform[:1_234])
    assert overview.levels.shape[1] == 1_234 // 8 + 1
    overview.add(waveform[1_234:])
    np.testing.assert_array_equal(overview.levels, Overview.of(waveform, RATE).levels)


def test_overview_of_many_hours_is_small():
    overview, hour = Overview(RATE), noise(3_600 * RATE)
    for _ in range(10):
        overview.add(hour)
    assert overview.seconds == 36_000
    held = [value for value in vars(overview).values() if isinstance(value, np.ndarray)]
    held += [value.values for value in vars(overview).values() if isinstance(value, Columns)]
    assert sum(array.nbytes for array in held) < 500_000
    assert 1_200 <= overview.levels.shape[1] <= 2_400 and 1_200 <= len(overview.envelope[0]) <= 2_400


def test_an_overview_of_nothing_is_empty():
    overview = Overview(RATE)
    assert (overview.seconds, overview.peak, len(overview.envelope[0])) == (0, 0, 0)
