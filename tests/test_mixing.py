# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the mixing recipe promises: the stated SNR, aligned targets, repeatable examples, errors that name the row."""

import dataclasses
import io
import json
import pickle
import random

import numpy as np
import pytest
import soundfile
from audiomentations import Compose, Gain, TimeMask
from datasets import Audio, Dataset
from torch.utils.data import DataLoader

from modeling_sparse_merit.data.mixing import MixingParameters, MixingRecipe
from modeling_sparse_merit.data.transmission import TRANSMISSIONS

RATE = 16_000


def encoded(waveform: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def table(*waveforms: np.ndarray) -> Dataset:
    rows = [{"bytes": encoded(waveform), "path": f"clip{index}.wav"} for index, waveform in enumerate(waveforms)]
    return Dataset.from_dict({"audio": rows}).cast_column("audio", Audio(sampling_rate=RATE, decode=False))


def white(samples: int, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def tone(samples: int = RATE, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 220 * np.arange(samples) / RATE)).astype(np.float32)


def snr_of(mixture) -> float:
    """SNR from what a user has, in float64: speech at the microphone and what was added to it."""
    speech = mixture.noisy.astype(np.float64) - mixture.noise
    return 10 * np.log10(np.sum(speech**2) / np.sum(mixture.noise.astype(np.float64) ** 2))


def level_of(waveform: np.ndarray) -> float:
    return 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2))


@pytest.mark.parametrize("snr_db", [-20.0, -5.0, 0.0, 12.34, 40.0])
@pytest.mark.parametrize("speech_samples, noise_samples", [(16_000, 80_000), (80_000, 16_000), (16_000, 16_000)])
def test_achieved_snr_is_the_stated_one(snr_db, speech_samples, noise_samples):
    recipe = MixingRecipe(table(white(noise_samples)), snr_db=snr_db)
    for index in range(5):
        mixture = recipe.apply(tone(speech_samples), recipe.draw(index))
        assert snr_of(mixture) == pytest.approx(snr_db, abs=0.01)
        difference = 10 * np.log10(np.sum(mixture.clean**2) / np.sum((mixture.noisy - mixture.clean) ** 2))
        assert difference == pytest.approx(snr_db, abs=0.01)  # without an RIR, what is not clean is noise


@pytest.mark.parametrize("speech_samples, noise_samples", [(1, 16_000), (16_000, 1), (3, 2), (1, 1)])
def test_achieved_snr_of_tiny_clips(speech_samples, noise_samples):
    recipe = MixingRecipe(table(white(noise_samples, seed=1)), snr_db=3.0)
    mixture = recipe.apply(white(speech_samples, seed=2), recipe.draw(0))
    assert mixture.noisy.shape == (speech_samples,)
    assert snr_of(mixture) == pytest.approx(3.0, abs=0.01)


def test_snr_and_level_stay_in_their_ranges_and_fill_them():
    recipe = MixingRecipe(table(white(RATE)), snr_db=(-5, 15), level_db=(-35, -15))
    drawn = [recipe.draw(index) for index in range(500)]
    snrs, levels = [one.snr_db for one in drawn], [one.level_db for one in drawn]
    assert -5 <= min(snrs) < -4 and 14 < max(snrs) <= 15
    assert -35 <= min(levels) < -34 and -16 < max(levels) <= -15
    assert np.mean(snrs) == pytest.approx(5, abs=1)  # uniform: the mean is the middle


def test_speech_gets_the_drawn_level_or_keeps_its_own():
    recipe = MixingRecipe(table(white(RATE)), snr_db=10.0, level_db=(-35, -25))
    parameters = recipe.draw(3)
    assert level_of(recipe.apply(tone(), parameters).clean) == pytest.approx(parameters.level_db, abs=0.01)
    keeps = MixingRecipe(table(white(RATE)), snr_db=10.0, level_db=None)
    np.testing.assert_allclose(keeps.apply(tone(), keeps.draw(3)).clean, tone(), atol=1e-6)


def test_too_loud_mixtures_are_scaled_down_with_their_target():
    recipe = MixingRecipe(table(white(RATE)), snr_db=-10.0, level_db=-3.0)
    mixture = recipe.apply(tone(), recipe.draw(0))
    assert np.abs(mixture.noisy).max() == 1.0
    assert np.abs(mixture.clean).max() < 1.0
    assert snr_of(mixture) == pytest.approx(-10.0, abs=0.01)


def test_noise_is_cropped_at_the_drawn_place():
    noise = white(5 * RATE)
    recipe = MixingRecipe(table(noise), level_db=None)
    # 4 s of noise may be skipped at most; half of that is 2 s
    mixture = recipe.apply(tone(), MixingParameters(noise_index=0, noise_offset=0.5, snr_db=0.0))
    expected = noise[2 * RATE : 3 * RATE]
    np.testing.assert_allclose(mixture.noise / mixture.noise[0], expected / expected[0], rtol=1e-3)


def test_short_noise_is_looped_from_the_drawn_place():
    recipe = MixingRecipe(table(np.array([0.1, 0.2, 0.3, 0.4])), level_db=None)
    mixture = recipe.apply(tone(7), MixingParameters(noise_index=0, noise_offset=0.5, snr_db=0.0))
    np.testing.assert_allclose(mixture.noise / mixture.noise[0] * 0.3, [0.3, 0.4, 0.1, 0.2, 0.3, 0.4, 0.1], rtol=1e-5)


def test_a_silent_segment_of_noise_is_passed_over():
    noise = np.concatenate([np.zeros(3 * RATE), white(RATE)]).astype(np.float32)
    recipe = MixingRecipe(table(noise), level_db=None)
    parameters = MixingParameters(noise_index=0, noise_offset=0.0, snr_db=0.0)
    mixture = recipe.apply(tone(), parameters)
    np.testing.assert_allclose(mixture.noise / mixture.noise[0], noise[3 * RATE :] / noise[3 * RATE], rtol=1e-3)
    np.testing.assert_array_equal(mixture.noisy, recipe.apply(tone(), parameters).noisy)


def test_speech_that_would_leave_the_band_keeps_its_speed():
    whistle = (0.1 * np.sin(2 * np.pi * 7_900 * np.arange(RATE) / RATE)).astype(np.float32)
    recipe = MixingRecipe(table(white(RATE)), level_db=None)
    mixture = recipe.apply(whistle, MixingParameters(noise_index=0, noise_offset=0.0, snr_db=0.0, speed=1.3))
    np.testing.assert_allclose(mixture.clean / np.abs(mixture.clean).max(), whistle / 0.1, atol=1e-2)


class Mixed:
    """A map-style dataset, as training makes one."""

    def __init__(self, recipe):
        self.recipe = recipe

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.recipe.apply(tone(), self.recipe.draw(index, epoch=2)).noisy


def full_recipe(seed: int = 0) -> MixingRecipe:
    return MixingRecipe(
        table(*(white(4000 * count, seed=count) for count in (1, 2, 5, 9))),
        rirs=table(np.array([0, 0, 1, 0.5, 0.25]), np.array([1, 0.1, 0.01])),
        speed=(0.9, 1.1),
        rir_probability=0.5,
        seed=seed,
        augment=Compose([Gain(-6, 6, p=0.5), TimeMask(0.05, 0.1, p=0.5)]),
    )


def test_examples_are_the_same_for_any_number_of_workers():
    def examples(workers):
        random.seed(workers)  # the state of the process must not matter
        np.random.seed(workers)
        loader = DataLoader(Mixed(full_recipe()), batch_size=None, num_workers=workers)
        return [example.numpy() for example in loader]

    for alone, shared in zip(examples(0), examples(2), strict=True):
        np.testing.assert_array_equal(alone, shared)


def test_every_index_epoch_and_seed_is_another_example():
    drawn = [full_recipe(seed).draw(i, epoch) for seed in (0, 1) for epoch in (0, 1) for i in range(20)]
    assert len(set(drawn)) == 80
    assert {one.noise_index for one in drawn} == {0, 1, 2, 3}
    assert {one.rir_index for one in drawn} == {None, 0, 1}


def test_rirs_and_speed_leave_the_drawn_noises_as_they_were():
    noises = table(white(RATE), white(RATE))
    plain, full = MixingRecipe(noises), MixingRecipe(noises, rirs=noises, rir_probability=1.0, speed=(0.5, 2))
    for index in range(20):
        one, other = plain.draw(index), full.draw(index)
        assert (one.noise_index, one.noise_offset, one.snr_db) == (other.noise_index, other.noise_offset, other.snr_db)


def test_a_mixture_can_be_logged_and_repeated_exactly():
    recipe = full_recipe()
    for index in range(8):
        parameters = recipe.draw(index)
        logged = json.loads(json.dumps(dataclasses.asdict(parameters)))
        assert MixingParameters(**logged) == parameters
        repeated = full_recipe().apply(tone(), MixingParameters(**logged))
        np.testing.assert_array_equal(repeated.noisy, recipe.apply(tone(), parameters).noisy)


def test_a_recipe_can_be_sent_to_another_process():
    recipe = full_recipe()
    other = pickle.loads(pickle.dumps(recipe))
    np.testing.assert_array_equal(Mixed(recipe)[3], Mixed(other)[3])


def test_the_global_generators_are_left_alone():
    recipe = full_recipe()
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    recipe.apply(tone(), recipe.draw(0))
    assert (random.random(), np.random.rand()) == expected


def test_the_recording_that_is_given_is_not_changed():
    def in_place(samples, sample_rate):
        samples *= 0.5
        return samples

    speech = tone()
    recipe = MixingRecipe(table(white(RATE)), snr_db=-20.0, level_db=None, augment=in_place)
    recipe.apply(speech, recipe.draw(0))
    np.testing.assert_array_equal(speech, tone())


def test_augment_is_applied_to_the_clean_speech():
    recipe = MixingRecipe(table(white(RATE)), snr_db=20.0, level_db=None, augment=Gain(-6.0, -6.0, p=1.0))
    mixture = recipe.apply(tone(), recipe.draw(0))
    np.testing.assert_allclose(mixture.clean, tone() * 10 ** (-6 / 20), atol=1e-6)
    assert snr_of(mixture) == pytest.approx(20.0, abs=0.01)


def test_speed_changes_the_length_and_the_pitch():
    recipe = MixingRecipe(table(white(RATE)), level_db=None)
    fast = MixingParameters(noise_index=0, noise_offset=0.0, snr_db=10.0, speed=1.1)
    clean = recipe.apply(tone(2 * RATE), fast).clean
    assert len(clean) == pytest.approx(2 * RATE / 1.1, abs=1)
    peak = np.argmax(np.abs(np.fft.rfft(clean))) * RATE / len(clean)
    assert peak == pytest.approx(220 * 1.1, abs=1)


def test_noise_speed_changes_the_pitch_of_the_noise_and_nothing_else():
    recipe = MixingRecipe(table(tone(5 * RATE)), level_db=None)
    for speed, length in ((1.25, RATE), (0.8, 7 * RATE)):  # cropped, looped
        parameters = MixingParameters(noise_index=0, noise_offset=0.5, snr_db=5.0, noise_speed=speed)
        mixture = recipe.apply(white(length), parameters)
        assert len(mixture.noise) == length and snr_of(mixture) == pytest.approx(5.0, abs=0.01)
        np.testing.assert_allclose(mixture.clean, white(length), atol=1e-6)
        peak = np.argmax(np.abs(np.fft.rfft(mixture.noise))) * RATE / length
        assert peak == pytest.approx(220 * speed, abs=1)


def test_noise_speed_fills_its_range_and_leaves_all_other_draws_as_they_were():
    noises = table(white(RATE), white(RATE))
    plain, varied = MixingRecipe(noises), MixingRecipe(noises, noise_speed=(0.75, 1.3))
    drawn = [varied.draw(index) for index in range(200)]
    assert [dataclasses.replace(one, noise_speed=1.0) for one in drawn] == [plain.draw(i) for i in range(200)]
    speeds = [one.noise_speed for one in drawn]
    assert 0.75 <= min(speeds) < 0.77 and 1.28 < max(speeds) <= 1.3


def test_a_whistle_that_would_leave_the_band_keeps_its_speed():
    whistle = (0.1 * np.sin(2 * np.pi * 7000 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    recipe = MixingRecipe(table(whistle), level_db=None)
    parameters = MixingParameters(noise_index=0, noise_offset=0.5, snr_db=0.0, noise_speed=1.3)
    noise = recipe.apply(tone(), parameters).noise
    assert np.argmax(np.abs(np.fft.rfft(noise))) == 7000


def test_an_rir_reverberates_the_mixture_and_the_target_keeps_the_early_part():
    delay, late = 32, 1600  # 2 ms before the direct sound; a late echo after 100 ms
    response = np.zeros(2000, np.float32)
    response[[delay, delay + 400, delay + late]] = [0.8, 0.4, 0.2]  # direct, 25 ms, 100 ms
    recipe = MixingRecipe(table(white(RATE)), rirs=table(response), level_db=None)
    speech = white(RATE, seed=3)
    mixture = recipe.apply(speech, MixingParameters(noise_index=0, noise_offset=0, snr_db=5.0, rir_index=0))

    early = 0.8 * speech
    early[400:] += 0.4 * speech[:-400]
    received = early.copy()
    received[late:] += 0.2 * speech[:-late]
    gain = 10 ** ((level_of(speech) - level_of(received)) / 20)  # the recording's level is kept at the microphone
    np.testing.assert_allclose(mixture.clean, early * gain, atol=1e-5)
    np.testing.assert_allclose(mixture.noisy - mixture.noise, received * gain, atol=1e-5)
    assert snr_of(mixture) == pytest.approx(5.0, abs=0.01)


def test_rirs_are_used_as_often_as_asked():
    noises = table(white(RATE))
    recipe = MixingRecipe(noises, rirs=noises, rir_probability=0.3)
    with_rir = np.mean([recipe.draw(index).rir_index is not None for index in range(2000)])
    assert with_rir == pytest.approx(0.3, abs=0.04)


def test_draws_of_before_transmissions_are_the_same():
    parameters = MixingRecipe(table(white(RATE), white(RATE)), noise_speed=(0.5, 2.0), seed=7).draw(3, epoch=2)
    generator = np.random.default_rng([7, 2, 3])
    noise, offset, snr, level = generator.random(7)[:4]
    augment_seed, noise_speed = int(generator.integers(2**32)), 0.5 + 1.5 * generator.random()
    assert parameters == MixingParameters(
        noise_index=int(2 * noise),
        noise_offset=offset,
        snr_db=-5 + 20 * snr,
        level_db=-35 + 20 * level,
        augment_seed=augment_seed,
        noise_speed=noise_speed,
    )


def test_switching_transmissions_clipping_and_clean_clips_on_leaves_the_other_draws():
    noises = table(*(white(RATE, seed=seed) for seed in range(5)))
    plain = MixingRecipe(noises)
    varied = MixingRecipe(
        noises,
        transmissions=["gsm", "mp3"],
        transmission_probability=0.5,
        clipping_probability=0.3,
        clean_probability=0.2,
    )
    drawn = [varied.draw(index) for index in range(1000)]
    assert np.mean([one.transmission == "gsm" for one in drawn]) == pytest.approx(0.25, abs=0.05)
    assert np.mean([one.transmission == "mp3" for one in drawn]) == pytest.approx(0.25, abs=0.05)
    assert np.mean([one.clipping_db > 0 for one in drawn]) == pytest.approx(0.3, abs=0.05)
    assert 14 < max(one.clipping_db for one in drawn) <= 15
    assert np.mean([one.noise_index is None for one in drawn]) == pytest.approx(0.2, abs=0.05)
    for index, one in enumerate(drawn):
        expected = plain.draw(index)
        kept = {"noise_index": expected.noise_index, "transmission": None, "clipping_db": 0.0}
        assert dataclasses.replace(one, **kept) == expected


def test_parameters_that_were_logged_before_transmissions_still_load():
    logged = '{"noise_index": 0, "noise_offset": 0.5, "snr_db": 3.0, "level_db": null, "rir_index": null}'
    parameters = MixingParameters(**json.loads(logged))
    assert parameters.transmission is None and parameters.clipping_db == 0.0


@pytest.mark.parametrize("name", ["telephone", "gsm"])
def test_a_transmitted_mixture_has_the_clean_speech_in_its_band_as_target(name):
    recipe = MixingRecipe(table(white(RATE)), level_db=None)
    plain = MixingParameters(noise_index=0, noise_offset=0.0, snr_db=5.0)
    speech = tone(RATE + 77) + white(RATE + 77, level=0.03, seed=3)
    direct = recipe.apply(speech, plain)
    mixture = recipe.apply(speech, dataclasses.replace(plain, transmission=name))
    assert np.abs(direct.noisy).max() <= 1  # not scaled down, so the two can be compared
    transmission = TRANSMISSIONS[name]
    np.testing.assert_allclose(mixture.clean, transmission.band_limit(speech), atol=1e-6)
    np.testing.assert_allclose(mixture.noisy, transmission.apply(direct.noisy), atol=1e-6)
    np.testing.assert_allclose(mixture.noisy - mixture.noise, mixture.clean, atol=1e-6)


def test_reflections_are_transmitted_too():
    response = np.zeros(2000, np.float32)
    response[[0, 1500]] = 1.0, 0.5  # the second comes after the 50 ms of the early part
    recipe = MixingRecipe(table(white(RATE)), rirs=table(response), level_db=None)
    parameters = MixingParameters(None, 0.0, 0.0, rir_index=0, transmission="narrowband")
    mixture = recipe.apply(white(RATE), parameters)
    plain = recipe.apply(white(RATE), dataclasses.replace(parameters, transmission=None))
    limit = TRANSMISSIONS["narrowband"].band_limit
    np.testing.assert_allclose(mixture.noisy, limit(plain.noisy), atol=1e-6)
    np.testing.assert_allclose(mixture.clean, limit(plain.clean), atol=1e-6)
    np.testing.assert_allclose(mixture.noise, 0, atol=1e-6)  # the echo belongs to the speech at the microphone


def test_clipping_cuts_the_mixture_and_leaves_the_target():
    recipe = MixingRecipe(table(white(RATE)), level_db=None)
    plain = MixingParameters(noise_index=0, noise_offset=0.0, snr_db=10.0)
    direct, clipped = (
        recipe.apply(tone(), dataclasses.replace(plain, clipping_db=clipping_db)) for clipping_db in (0.0, 6.0)
    )
    limit = np.abs(direct.noisy).max() / 10 ** (6 / 20)
    np.testing.assert_allclose(clipped.noisy, np.clip(direct.noisy, -limit, limit), atol=1e-6)
    assert np.mean(np.isclose(np.abs(clipped.noisy), limit)) > 0.01
    np.testing.assert_array_equal(clipped.clean, direct.clean)
    np.testing.assert_allclose(clipped.noisy - clipped.noise, clipped.clean, atol=1e-6)


def test_an_example_without_noise_is_its_own_target():
    recipe = MixingRecipe(table(white(RATE)), clean_probability=1.0)
    parameters = recipe.draw(4)
    mixture = recipe.apply(tone(), parameters)
    np.testing.assert_array_equal(mixture.noisy, mixture.clean)
    assert not mixture.noise.any()
    assert level_of(mixture.noisy) == pytest.approx(parameters.level_db, abs=0.01)


def test_decoded_noise_is_bounded():
    recipe = MixingRecipe(table(*(white(RATE, seed=seed) for seed in range(10))), cache_seconds=3)
    for index in range(40):
        recipe.apply(tone(), recipe.draw(index))
    assert len(recipe.noise.decoded) == 3
    assert recipe.noise.size == 3 * RATE


@pytest.mark.parametrize(
    "speech, complaint",
    [
        (np.zeros(RATE, np.float32), "silent"),
        (np.array([0.1, np.nan, 0.1], np.float32), "NaN or infinite"),
        (np.array([0.1, np.inf, 0.1], np.float32), "NaN or infinite"),
        (np.zeros(0, np.float32), "not empty"),
        (np.ones((2, RATE), np.float32), r"\(samples,\)"),
        (np.ones(RATE, np.int16), "load_audio"),
    ],
)
def test_bad_speech_is_an_error_that_names_the_file(speech, complaint):
    recipe = MixingRecipe(table(white(RATE)))
    with pytest.raises(ValueError, match=complaint) as error:
        recipe.apply(speech, recipe.draw(0), name="actor_07/angry.wav")
    assert "actor_07/angry.wav" in str(error.value)


@pytest.mark.parametrize(
    "noise, complaint", [(np.zeros(RATE), "silent"), (np.array([0.1, np.nan]), "NaN"), (np.zeros(0), "empty")]
)
def test_bad_noise_is_an_error_that_names_row_and_file(noise, complaint):
    recipe = MixingRecipe(table(white(RATE), noise))
    with pytest.raises(ValueError, match=complaint) as error:
        recipe.apply(tone(), MixingParameters(noise_index=1, noise_offset=0.0, snr_db=0.0))
    assert "row 1 of `noise` (clip1.wav)" in str(error.value)


def test_a_transform_that_silences_the_speech_is_an_error():
    recipe = MixingRecipe(table(white(RATE)), augment=lambda samples, sample_rate: samples * 0)
    with pytest.raises(ValueError, match="sad.wav after the transform"):
        recipe.apply(tone(), recipe.draw(0), name="sad.wav")


@pytest.mark.parametrize(
    "arguments, field",
    [
        ({"snr_db": (15, -5)}, "snr_db"),
        ({"snr_db": float("nan")}, "snr_db"),
        ({"level_db": (-35, float("inf"))}, "level_db"),
        ({"speed": (0.0, 1.0)}, "speed"),
        ({"noise_speed": (0.0, 1.0)}, "noise_speed"),
        ({"rir_probability": 0.5}, "rir_probability"),
        ({"rir_probability": 1.5}, "rir_probability"),
        ({"transmission_probability": 0.5}, "transmission_probability"),
        ({"transmissions": ["gsm"], "transmission_probability": 1.5}, "transmission_probability"),
        ({"transmissions": ["fax"]}, "transmissions"),
        ({"clipping_probability": -0.1}, "clipping_probability"),
        ({"clean_probability": 2.0}, "clean_probability"),
    ],
)
def test_impossible_recipes_are_refused_early(arguments, field):
    with pytest.raises(ValueError, match=field):
        MixingRecipe(table(white(RATE)), **arguments)


def test_tables_without_audio_or_rows_are_refused():
    with pytest.raises(ValueError, match="column `audio`"):
        MixingRecipe(Dataset.from_dict({"file": ["a.wav"]}))
    with pytest.raises(ValueError, match="0 rows"):
        MixingRecipe(table(white(RATE)).select([]))


def test_parameters_of_another_recipe_are_refused():
    recipe = MixingRecipe(table(white(RATE)))
    with pytest.raises(ValueError, match="has no row 7"):
        recipe.apply(tone(), MixingParameters(noise_index=7, noise_offset=0.0, snr_db=0.0))
    with pytest.raises(ValueError, match="without `rirs`"):
        recipe.apply(tone(), MixingParameters(noise_index=0, noise_offset=0.0, snr_db=0.0, rir_index=0))
    with pytest.raises(ValueError, match=r"`transmission` is \['fax'\]"):
        recipe.apply(tone(), MixingParameters(noise_index=0, noise_offset=0.0, snr_db=0.0, transmission="fax"))


def test_real_recordings_meet_their_snr(reference_data):
    def rows(folder, pattern, count):
        files = sorted((reference_data / "data" / folder).rglob(pattern))[:count]
        return [{"bytes": None, "path": str(file)} for file in files]

    def from_files(*arguments):
        return Dataset.from_dict({"audio": rows(*arguments)}).cast_column("audio", Audio(RATE, decode=False))

    noise, rirs = from_files("noise/esc10", "*.ogg", 20), from_files("rir", "*.flac", 22)
    recipe = MixingRecipe(noise, rirs, speed=(0.9, 1.1), rir_probability=0.5)
    for index, row in enumerate(rows("emotion/ravdess", "*.flac", 20)):
        speech, _ = soundfile.read(row["path"], dtype="float32")
        parameters = recipe.draw(index)
        mixture = recipe.apply(speech, parameters, row["path"])
        assert snr_of(mixture) == pytest.approx(parameters.snr_db, abs=0.01)
        assert max(np.abs(mixture.noisy).max(), np.abs(mixture.clean).max()) <= 1
