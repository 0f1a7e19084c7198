# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What holds for every input: mixtures, windows, transforms, routing and scores, on inputs that hypothesis chooses."""

import io
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_sparse_merit import SparseMeritFeatureExtractor
from modeling_sparse_merit.data.mixing import MixingParameters, MixingRecipe
from modeling_sparse_merit.metrics.regression import concordance_correlation
from modeling_sparse_merit.models.sparse_merit.audio import resample
from modeling_sparse_merit.models.sparse_merit.clip_heads import concordance_loss
from modeling_sparse_merit.models.sparse_merit.cutting import WindowCutter
from modeling_sparse_merit.models.sparse_merit.enhancement import Spectrogram
from modeling_sparse_merit.models.sparse_merit.experts import FeedForwardExpert, route_dense, route_sparse

RATE = 16_000
SEEDS = st.integers(0, 2**32 - 1)
floats = partial(st.floats, allow_subnormal=False)  # training makes this process treat them as 0
usual = settings(
    deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sound(seed: int, samples: int, level: float = 0.1) -> np.ndarray:
    """Float32 (samples,): noise whose level changes, with a pause."""
    generator = np.random.default_rng(seed)
    envelope = np.repeat(generator.uniform(0, 1, samples // 1_600 + 1), 1_600)[:samples]
    envelope[samples // 3 : samples // 2] = 1e-4
    return (level * envelope * generator.standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def recipe() -> MixingRecipe:
    noises = [{"bytes": wav(0.2 * np.random.default_rng(seed).standard_normal(RATE))} for seed in range(3)]
    rows = [{"audio": {**noise, "path": f"{place}.wav"}} for place, noise in enumerate(noises)]
    return MixingRecipe(Dataset.from_list(rows).cast_column("audio", Audio(decode=False)))


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


@given(seed=SEEDS, samples=st.integers(200, 30_000), snr=floats(-20, 40), level=floats(-60, -10))
@usual
def test_a_mixture_has_the_requested_ratio_and_level_and_is_the_sum_of_its_parts(recipe, seed, samples, snr, level):
    parameters = MixingParameters(noise_index=seed % 3, noise_offset=(seed % 97) / 97, snr_db=snr, level_db=level)
    mixture = recipe.apply(sound(seed, samples), parameters)
    assert len(mixture.noisy) == len(mixture.clean) == len(mixture.noise) == samples
    assert np.abs(mixture.noisy).max() <= 1 + 1e-6
    np.testing.assert_allclose(mixture.noisy, mixture.clean + mixture.noise, atol=1e-6)
    speech, noise = (np.square(part.astype(np.float64)).mean() for part in (mixture.clean, mixture.noise))
    assert 10 * np.log10(speech / noise) == pytest.approx(snr, abs=0.01)
    if np.abs(mixture.noisy).max() < 0.99:  # it was not scaled down
        assert 10 * np.log10(speech) == pytest.approx(level, abs=0.01)


@given(seed=SEEDS, samples=st.integers(1, 200_000), blocks=st.integers(1, 50_000), fixed=st.booleans())
@usual
def test_the_pieces_of_a_recording_are_the_recording_for_any_blocks(seed, samples, blocks, fixed):
    waveform = sound(seed, samples)

    def cut(size: int) -> list:
        cutter = WindowCutter(1.0, 0.2) if fixed else WindowCutter(4.0, 0.5)
        windows = [
            window for start in range(0, samples, size) for window in cutter.add(waveform[start : start + size])
        ]
        return windows + cutter.finish()

    windows = cut(blocks)
    np.testing.assert_array_equal(np.concatenate([window.piece for window in windows]), waveform)
    assert [window.start for window in windows[1:]] == [window.end for window in windows[:-1]]
    for window in windows:
        np.testing.assert_array_equal(
            window.waveform, waveform[window.start - window.left : window.end + window.right]
        )
    assert [(window.start, window.end) for window in cut(samples)] == [(each.start, each.end) for each in windows]


@given(seed=SEEDS, lengths=st.lists(st.integers(400, 20_000), min_size=1, max_size=4))
@usual
def test_features_of_a_recording_do_not_depend_on_its_batch(seed, lengths):
    extract = SparseMeritFeatureExtractor()
    sounds = [sound(seed + place, length) for place, length in enumerate(lengths)]
    recordings = [0.1 * each / each.std() for each in sounds]  # well above the 1e-7 that is added to the variance
    batch = extract(recordings, sampling_rate=RATE, padding=True, return_tensors="np")
    for place, recording in enumerate(recordings):
        alone = extract(recording, sampling_rate=RATE, return_tensors="np")["input_values"][0]
        np.testing.assert_array_equal(batch["input_values"][place, : len(recording)], alone)
        assert not batch["input_values"][place, len(recording) :].any()
        assert batch["attention_mask"][place].sum() == len(recording)
        assert abs(alone.mean()) < 1e-3 and alone.std() == pytest.approx(1, abs=1e-2)
        scaled = extract(3.0 * recording, sampling_rate=RATE, return_tensors="np")["input_values"][0]
        np.testing.assert_allclose(scaled, alone, atol=1e-2)


@st.composite
def transforms(draw) -> tuple[int, int, int]:
    """n_fft, hop_length, win_length."""
    win_length = draw(st.integers(16, 600))
    return draw(st.integers(win_length, 700)), draw(st.integers(4, win_length // 2)), win_length


@given(seed=SEEDS, sizes=transforms(), lengths=st.lists(st.integers(700, 8_000), min_size=1, max_size=3))
@usual
def test_the_inverse_transform_gives_the_speech_back_in_any_batch(seed, sizes, lengths):
    transform, longest = Spectrogram(*sizes), max(lengths)
    waveforms = torch.stack([torch.from_numpy(np.pad(sound(seed, n), (0, longest - n))) for n in lengths])
    count = torch.tensor(lengths)
    spectrum = transform.transform(waveforms, count)
    back = transform.inverse(spectrum, count, longest)
    for place, length in enumerate(lengths):
        torch.testing.assert_close(back[place, :length], waveforms[place, :length], atol=1e-4, rtol=0)
        assert not back[place, length:].any()


@given(seed=SEEDS, samples=st.integers(400, 30_000), rate=st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000]))
@usual
def test_resampling_keeps_the_duration_and_the_level_of_a_tone(seed, samples, rate):
    time = np.arange(samples) / RATE
    tone = np.sin(2 * np.pi * (200 + seed % 2_000) * time).astype(np.float32)
    there = resample(tone, RATE, rate)
    assert abs(len(there) - samples * rate / RATE) <= 1
    if samples > 4_000:
        middle = there[len(there) // 4 : -len(there) // 4]
        assert np.sqrt(np.square(middle).mean()) == pytest.approx(np.sqrt(0.5), abs=0.02)


@given(seed=SEEDS, frames=st.integers(1, 40), tasks=st.integers(1, 3), experts=st.integers(1, 6))
@usual
def test_sparse_routing_is_that_of_each_frame_alone(seed, frames, tasks, experts):
    torch.manual_seed(seed)
    modules = torch.nn.ModuleList(FeedForwardExpert(6, 8, 4) for _ in range(experts))
    values, logits = torch.randn(frames, 6), torch.randn(tasks, frames, experts)
    probabilities = logits.softmax(-1)
    routed = route_sparse(modules, values, probabilities, "straight_through")
    for task in range(tasks):
        for frame in range(frames):
            expected = modules[int(probabilities[task, frame].argmax())](values[frame : frame + 1])[0]
            torch.testing.assert_close(routed[task, frame], expected, atol=1e-6, rtol=1e-5)
    one_hot = torch.nn.functional.one_hot(probabilities.argmax(-1), experts).float()
    torch.testing.assert_close(route_dense(modules, values, one_hot), routed, atol=1e-6, rtol=1e-5)


numbers = st.lists(st.tuples(floats(-100, 100), floats(-100, 100)), min_size=3, max_size=30)


@given(pairs=numbers, shift=floats(-50, 50), scale=floats(0.1, 10))
@usual
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ccc_is_symmetric_bounded_and_blind_to_a_common_scale(pairs, shift, scale):
    true, predicted = np.array(pairs).T
    if true.std() < 1e-3 or predicted.std() < 1e-3:
        return
    actual = concordance_correlation(true, predicted)
    assert -1 - 1e-9 <= actual <= 1 + 1e-9
    assert concordance_correlation(predicted, true) == pytest.approx(actual, abs=1e-9)
    assert concordance_correlation(scale * true + shift, scale * predicted + shift) == pytest.approx(actual, abs=1e-6)
    assert concordance_correlation(true, true) == pytest.approx(1)
    assert abs(actual) <= abs(np.corrcoef(true, predicted)[0, 1]) + 1e-9  # Lin 1989
    loss = concordance_loss(torch.tensor(predicted)[:, None], torch.tensor(true)[:, None])
    assert float(loss) == pytest.approx(1 - actual, abs=1e-3)
