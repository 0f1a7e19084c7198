# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Makes `modeling_sparse_merit/demo/noisy_speech.flac`: an angry sentence of espeak-ng in synthetic noise at 5 dB.

Needs the program espeak-ng (1.51 made the committed file) besides this package: `python docs/make_demo_recording.py`.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

SAMPLING_RATE = 22_050  # what espeak-ng speaks at
SNR_DB = 5.0
TARGET = Path(__file__).parents[1] / "modeling_sparse_merit" / "demo" / "noisy_speech.flac"

SENTENCE = "I told you three times already! How could you lose the whole report again? I have had enough!"
BABBLE = {
    "en-gb+m4": "the train to the coast leaves in the morning and comes back late in the evening",
    "en-us+f3": "we could have lunch outside today if the weather stays like this for a while",
    "en-gb-scotland+m2": "my neighbour has painted his garden fence in green and white this summer",
    "en-us+f5": "they opened a new library next to the station and it is warm in there",
}


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


def main() -> None:
    """Speaks, mixes at the stated SNR, scales to a peak of 0.5 and writes the FLAC."""
    speech = speak(SENTENCE, "en-us+m3", "-p", "65", "-s", "190", "-a", "180")
    speech = np.pad(speech, (int(0.5 * SAMPLING_RATE), int(0.3 * SAMPLING_RATE)))
    generator = np.random.default_rng(20260)
    noise = coloured_noise(len(speech), generator) + 0.35 * hum(len(speech)) + 0.5 * babble(len(speech))
    gain = np.sqrt(np.mean(speech**2) / np.mean(noise**2) / 10 ** (SNR_DB / 10))
    mixture = speech + gain * noise
    soundfile.write(TARGET, 0.5 * mixture / np.abs(mixture).max(), SAMPLING_RATE, subtype="PCM_16")
    print(f"{TARGET}: {len(mixture) / SAMPLING_RATE:.1f} s, {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
