# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Makes the recordings in `modeling_sparse_merit/demo`, with voices of espeak-ng.

`noisy_speech.flac` is an angry sentence in synthetic noise at 5 dB, `clean_speech.flac` an angry sentence of another
voice without noise, and `three_voices.ogg` a sequence of angry, calm and sad sentences over a fan at 15 dB.

Needs the program espeak-ng (1.51 made the committed files) besides this package: `python docs/make_demo_recording.py`.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLING_RATE = 22_050  # what espeak-ng speaks at
SNR_DB = 5.0
FOLDER = Path(__file__).parents[1] / "modeling_sparse_merit" / "demo"

SENTENCE = "I told you three times already! How could you lose the whole report again? I have had enough!"
BABBLE = {
    "en-gb+m4": "the train to the coast leaves in the morning and comes back late in the evening",
    "en-us+f3": "we could have lunch outside today if the weather stays like this for a while",
    "en-gb-scotland+m2": "my neighbour has painted his garden fence in green and white this summer",
    "en-us+f5": "they opened a new library next to the station and it is warm in there",
}
CLEAN = (SENTENCE, "en-us+f3", "-p", "45", "-s", "190")
VOICES = (
    (
        "I told you three times already! How could you lose the whole report again?",
        "en-us+m3",
        "-p",
        "95",
        "-s",
        "190",
    ),
    (
        "The train to the coast leaves at nine, and the ticket office opens at eight.",
        "en-us+f3",
        "-p",
        "20",
        "-s",
        "190",
    ),
    ("I waited for him the whole evening, but he did not come.", "en-us+m3", "-p", "20", "-s", "150"),
    ("This is the last time! Do not touch my things again!", "en-us+f3", "-p", "45", "-s", "190"),
    ("He will not come back any more, I think. It is so quiet here now.", "en-us+m3", "-p", "20", "-s", "150"),
)
FAN_SNR_DB = 15.0
PAUSE_S = 0.9


def speak(text: str, voice: str, *options: str) -> np.ndarray:
    """Returns the text as spoken by espeak-ng: float (samples,) at 22,050 Hz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["espeak-ng", "-v", voice, *options, "-w", str(path), text], check=True)
        waveform, sampling_rate = soundfile.read(path)
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(
            f"espeak-ng wrote {sampling_rate} Hz, expected {SAMPLING_RATE} Hz: check the voice {voice!r}."
        )
    return waveform


def coloured_noise(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Returns noise whose power falls with 1/f above 50 Hz, like a ventilator: (samples,), unit power."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / SAMPLING_RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequencies, 50.0)), samples)
    return noise / noise.std()


def hum(samples: int) -> np.ndarray:
    """Returns mains hum, 50 Hz and odd harmonics: (samples,), unit power."""
    time = np.arange(samples) / SAMPLING_RATE
    wave = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in (1, 3, 5, 7))
    return wave / wave.std()


def babble(samples: int) -> np.ndarray:
    """Returns several voices at once, each starting elsewhere in its sentence: (samples,), unit power."""
    voices = [np.resize(speak(text, voice), samples + SAMPLING_RATE) for voice, text in BABBLE.items()]
    mixed = sum(np.roll(voice, 5_000 * i)[:samples] / voice.std() for i, voice in enumerate(voices))
    return mixed / mixed.std()


def padded(speech: np.ndarray, before: float, after: float) -> np.ndarray:
    """Returns speech (samples,) with seconds of silence before and after it."""
    return np.pad(speech, (round(before * SAMPLING_RATE), round(after * SAMPLING_RATE)))


def mixed(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Returns speech and noise, (samples,) each, at a signal-to-noise ratio in dB."""
    return speech + noise * np.sqrt(np.mean(speech**2) / np.mean(noise**2) / 10 ** (snr_db / 10))


def write(name: str, waveform: np.ndarray, rate: int = 16_000) -> None:
    """Writes a recording (samples,) with a peak of 0.5, at a rate in Hz."""
    samples = 0.5 * waveform / np.abs(waveform).max()
    if rate != SAMPLING_RATE:
        samples = soxr.resample(samples, SAMPLING_RATE, rate, quality="VHQ")
    path = FOLDER / name
    options = {"compression_level": 0.8} if path.suffix == ".ogg" else {}
    soundfile.write(path, samples, rate, **options)
    print(f"{path}: {len(waveform) / SAMPLING_RATE:.1f} s, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Speaks, mixes at the stated SNRs and writes the files."""
    generator = np.random.default_rng(20260)
    speech = padded(speak(SENTENCE, "en-us+m3", "-p", "65", "-s", "190", "-a", "180"), 0.5, 0.3)
    noise = coloured_noise(len(speech), generator) + 0.35 * hum(len(speech)) + 0.5 * babble(len(speech))
    write("noisy_speech.flac", mixed(speech, noise, SNR_DB), SAMPLING_RATE)
    write("clean_speech.flac", padded(speak(*CLEAN), 0.3, 0.3))
    voices = [speak(*voice) for voice in VOICES]
    level = voices[0].std()
    speech = np.concatenate([padded(voice * (level / voice.std()), PAUSE_S / 2, PAUSE_S / 2) for voice in voices])
    write("three_voices.ogg", mixed(speech, coloured_noise(len(speech), generator), FAN_SNR_DB))


if __name__ == "__main__":
    main()
