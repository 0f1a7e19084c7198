# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the page does with a recording: enhance it, or compare it with a noisy version of itself."""

import shutil
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..models.sparse_merit.audio import SAMPLING_RATE, write_audio
from .analysis import Analysis, Progress, Source, analyse, read_recording
from .limits import Limits
from .models import Models
from .noise import add_noise
from .results import (
    downloads_html,
    emotion_of,
    experts_html,
    players_html,
    scores_html,
    summary_html,
    timeline_html,
    write_players,
)

CHANNELS = {"Mean of all channels": "mix", "Left": "left", "Right": "right"}
"""Choices of the channel, by their names on the page."""
Steps = Generator[Progress, None, str]
"""Yields the progress, and returns the results as HTML."""


@dataclass(frozen=True)
class Actions:
    """What the page does.

    Args:
        models: the models.
        limits: what is accepted.
        folder: where results are written, each in a folder of its own.
    """

    models: Models
    limits: Limits
    folder: Path

    def new_folder(self) -> Path:
        """A new folder for results; its name cannot be guessed."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

    def enhance(self, source: Source, folder: Path, model: str, channel: str) -> Steps:
        """Enhances a recording and recognises its emotion.

        Args:
            source: the recording.
            folder: from `new_folder`.
            model: a name in `models`.
            channel: a name in `CHANNELS`.

        Raises:
            ValueError: the recording cannot be used; see `analyse`.
        """
        pipe = self.models.load(model)
        analysis = yield from analyse(pipe, source, folder, CHANNELS[channel], self.limits)
        signals = {"Before": analysis.recording}
        if analysis.enhanced is not None:
            signals["After"] = analysis.enhanced
        band = analysis.record["sampling_rate"] / 2
        players = write_players(signals, folder, band)
        return (
            summary_html(analysis)
            + downloads_html(analysis, folder)
            + players_html(players, band)
            + scores_html({"Score": analysis})
            + timeline_html(analysis, players[0].overview, len(players) - 1)
            + experts_html(analysis)
        )

    def compare(self, source: Source, folder: Path, model: str, channel: str, noise: str, snr_db: float) -> Steps:
        """Adds a noise to a recording, and compares the results with those of the recording itself.

        Args:
            source: the clean recording.
            folder: from `new_folder`.
            model: a name in `models`.
            channel: a name in `CHANNELS`.
            noise: a name in `NOISES`.
            snr_db: signal-to-noise ratio in dB.

        Raises:
            ValueError: the recording cannot be used; see `analyse` and `add_noise`.
        """
        pipe = self.models.load(model)
        clean = read_recording(source, CHANNELS[channel], self.limits)
        title = f"{noise}, {snr_db:g} dB"
        noisy = Source(folder / "noisy.wav", f"{Path(source.name).stem} ({title}).wav")
        write_audio(noisy.path, add_noise(clean, noise, snr_db, source.name), SAMPLING_RATE)
        before = yield from analyse(pipe, source, folder, CHANNELS[channel], self.limits)
        after = yield from analyse(pipe, noisy, folder, limits=self.limits)
        signals = {"Clean": clean, title: after.recording}
        if after.enhanced is not None:
            signals["Enhanced"] = after.enhanced
        band = before.record["sampling_rate"] / 2
        players = write_players(signals, folder, band)
        return (
            verdict_html(before, after)
            + downloads_html(after, folder)
            + players_html(players, band)
            + scores_html({"Clean": before, "With noise": after})
            + timeline_html(after, players[1].overview, len(players) - 1)
            + experts_html(after)
        )


def verdict_html(before: Analysis, after: Analysis) -> str:
    """Whether the emotion holds or flips.

    Args:
        before: the clean recording.
        after: the same with noise.
    """
    title = f"<h2>{escape(after.record['file'])}</h2>"
    if not (before.record["scores"] or after.record["scores"]):
        return title
    verdict = "The emotion holds" if before.record["emotion"] == after.record["emotion"] else "The emotion flips"
    pair = f"clean: {emotion_of(before.record)}; with noise: {emotion_of(after.record)}"
    return f'{title}<p class="sm-summary"><strong>{verdict}</strong> <span>{escape(pair)}</span></p>'


def remove_folder(folder: Path | None) -> None:
    """Deletes the results of a visitor, if there are any."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
