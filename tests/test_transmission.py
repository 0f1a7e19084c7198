# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What every transmission promises: the band that it keeps, no delay, the same length and scale."""

from importlib.resources import files

import numpy as np
import pytest
import soundfile

from modeling_sparse_merit import load_audio
from modeling_sparse_merit.data.transmission import TRANSMISSIONS, PacketLoss, checked_transmissions

RATE = 16_000
BANDS = {  # Hz that a transmission keeps, at half power
    "narrowband": (0, 3700),
    "telephone": (300, 3400),
    "band_5500": (0, 5100),
    "band_6000": (0, 5600),
    "mu_law": (300, 3400),
    "a_law": (300, 3400),
    "gsm": (0, 3700),
    "opus_narrowband": (0, 3700),
    "opus_wideband": (0, 8000),
    "mp3": (0, 8000),
    **dict.fromkeys((name for name in TRANSMISSIONS if name.startswith("packet_loss")), (300, 3400)),
}

every_transmission = pytest.mark.parametrize("name", TRANSMISSIONS)
every_codec = pytest.mark.parametrize("name", [name for name, one in TRANSMISSIONS.items() if one.codec])


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """4 s of speech in noise, (samples,)."""
    return load_audio(files("modeling_sparse_merit") / "demo" / "noisy_speech.flac")[: 4 * RATE]


def sine(frequency: float, samples: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(samples) / RATE)).astype(np.float32)


def sdr(reference: np.ndarray, waveform: np.ndarray) -> float:
    difference = reference.astype(np.float64) - waveform
    return 10 * np.log10(np.sum(reference.astype(np.float64) ** 2) / np.sum(difference**2))


def delay(reference: np.ndarray, waveform: np.ndarray) -> int:
    """Samples by which `waveform` is late, at the peak of the cross-correlation."""
    size = 2 * len(reference)
    spectrum = np.fft.rfft(waveform, size) * np.conj(np.fft.rfft(reference, size))
    lag = int(np.argmax(np.fft.irfft(spectrum, size)))
    return lag if lag < size // 2 else lag - size


def test_a_delay_is_noticed(speech):
    for samples in (-7, 0, 7, 1105):
        assert delay(speech, np.roll(speech, samples)) == samples


@every_transmission
def test_transmitted_speech_is_aligned_and_as_long(name, speech):
    transmission = TRANSMISSIONS[name]
    for length in (len(speech), len(speech) - 123):
        for waveform in (transmission.apply(speech[:length]), transmission.band_limit(speech[:length])):
            assert waveform.shape == (length,) and waveform.dtype == np.float32
            assert abs(delay(speech[:length], waveform)) <= 1


@every_transmission
def test_a_short_clip_stays_as_long(name, speech):
    for length in (2, 25, 399, 1001):
        assert TRANSMISSIONS[name].apply(speech[:length]).shape == (length,)


@every_transmission
def test_the_band_is_kept_and_nothing_else(name):
    lowest, highest = BANDS[name]
    middle = slice(RATE // 4, -RATE // 4)
    for frequency in (60, 150, 450, 1000, 2000, 3000, 4300, 5800, 7000, 7900):
        level = np.std(TRANSMISSIONS[name].band_limit(sine(frequency))[middle]) / np.std(sine(frequency)[middle])
        assert level == pytest.approx(1 if lowest <= frequency <= highest else 0, abs=0.05), frequency


@every_transmission
def test_the_band_limit_is_linear(name, speech):
    limit, other = TRANSMISSIONS[name].band_limit, np.roll(speech, RATE)
    np.testing.assert_allclose(limit(speech + other), limit(speech) + limit(other), atol=1e-6)
    np.testing.assert_allclose(limit(8 * speech), 8 * limit(speech), atol=1e-5)


@every_codec
def test_a_codec_distorts_what_the_band_limit_leaves(name, speech):
    transmission = TRANSMISSIONS[name]
    quality = sdr(transmission.band_limit(speech), transmission.apply(speech))
    assert (30 < quality < 45) if name in ("mu_law", "a_law") else (4 < quality < 30)


@every_codec
def test_full_scale_is_kept_and_may_be_exceeded(name, speech):
    loud = speech / np.abs(speech).max()
    once, thrice = (sdr(scale * loud, TRANSMISSIONS[name].apply(scale * loud)) for scale in (1, 3))
    assert once == pytest.approx(thrice, abs=0.5)  # dB


@every_transmission
def test_a_transmission_gives_the_same_samples_each_time(name, speech):
    np.testing.assert_array_equal(TRANSMISSIONS[name].apply(speech), TRANSMISSIONS[name].apply(speech))


@pytest.mark.parametrize("name", ["mu_law", "a_law"])
@pytest.mark.parametrize("level_db", [-6, -16, -26])
def test_companding_has_its_38_db_at_every_level(name, level_db):
    """8 bits of a logarithmic quantiser: a step is 1/16 to 1/32 of the sample, an error of step / sqrt(12) of RMS."""
    waveform = sine(440) / 0.3 * np.float32(10 ** (level_db / 20))
    assert sdr(waveform, TRANSMISSIONS[name].codec.apply(waveform, RATE)) == pytest.approx(38, abs=2)


def test_silence_stays_almost_silent():
    for transmission in TRANSMISSIONS.values():
        assert np.abs(transmission.apply(np.zeros(RATE, np.float32))).max() < 1e-3


def test_names_are_safe_in_files_and_unknown_ones_are_refused():
    assert all(name.isidentifier() for name in TRANSMISSIONS)
    assert checked_transmissions(["gsm", "mp3"]) == ("gsm", "mp3")
    with pytest.raises(ValueError, match=r"`transmissions` is \['fax'\]; expected some of \['narrowband', "):
        checked_transmissions(["fax"])
    with pytest.raises(ValueError, match="each once"):
        checked_transmissions(["gsm", "gsm"])


def test_this_libsndfile_has_every_codec():
    for codec in [one.codec for one in TRANSMISSIONS.values() if one.codec]:
        assert codec.subtype in soundfile.available_subtypes(codec.file_format)


def test_lost_packets_are_silent_or_repeat_the_last_one():
    packets = 5_000
    waveform = np.repeat(np.arange(1, packets + 1), 160).astype(np.float32)  # at 8 kHz, a packet of 20 ms is constant
    silent = PacketLoss(0.1).apply(waveform, 8_000).reshape(packets, 160)
    lost = (silent == 0).all(1)
    assert 0.085 < lost.mean() < 0.115  # 3.5 standard deviations
    np.testing.assert_array_equal(silent[~lost].ravel(), waveform.reshape(packets, 160)[~lost].ravel())
    repeated = PacketLoss(0.1, is_repeated=True).apply(waveform, 8_000).reshape(packets, 160)[:, 0]
    last = np.maximum.accumulate(np.where(lost, 0, np.arange(1, packets + 1)))
    np.testing.assert_array_equal(repeated, last)
    after_loss = lost[1:][lost[:-1]].mean()
    assert abs(after_loss - 0.1) < 0.05  # losses are independent


def test_the_same_packets_are_lost_in_every_run(speech):
    transmission = TRANSMISSIONS["packet_loss_10"]
    np.testing.assert_array_equal(transmission.apply(speech), transmission.apply(speech.copy()))
    assert not np.array_equal(transmission.apply(speech), TRANSMISSIONS["packet_loss_2"].apply(speech))
