# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Results as HTML: players with pictures, scores of emotions, segments that can be played, and use of the experts.

Audio elements of the browser are used, because they play long files while they load, and keys and screen readers can
operate them. `page.js` connects them with the pictures.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..inference.segments import UNSURE, Segment
from ..models.sparse_merit.audio import SAMPLING_RATE, write_audio
from ..plotting.overview import Overview
from ..plotting.style import plain_shades
from ..plotting.timeline import clock, emotion_colours
from .analysis import Analysis
from .charts import experts_svg, waveform_svg, write_spectrograms
from .loudness import at_equal_loudness

SHORT = 12  # seconds; the only segment of a shorter recording has no timeline
MANY = 100  # segments, above which there is no list of them


@dataclass(frozen=True)
class Player:
    """A signal that can be played.

    Args:
        title: its name.
        overview: its envelope and spectrogram.
        audio: file for the player.
        spectrogram: file of the picture.
    """

    title: str
    overview: Overview
    audio: Path
    spectrogram: Path


def write_players(signals: Mapping[str, np.ndarray], folder: Path, band: float) -> list[Player]:
    """Writes the files of players at equal loudness, and their spectrograms.

    Args:
        signals: {title: float32 (samples,) at 16 kHz}.
        folder: where the files are written.
        band: highest frequency of the recording in Hz.
    """
    overviews = {}
    audio = [folder / f"player-{number}.flac" for number in range(len(signals))]
    scaled = at_equal_loudness(list(signals.values()), SAMPLING_RATE)
    for title, file, waveform in zip(signals, audio, scaled, strict=True):
        write_audio(file, waveform, SAMPLING_RATE)
        overviews[title] = Overview.of(waveform, SAMPLING_RATE)
    pictures = write_spectrograms(overviews, band, folder)
    return [Player(title, overviews[title], file, pictures[title]) for title, file in zip(signals, audio, strict=True)]


def players_html(players: Sequence[Player], band: float) -> str:
    """Players next to each other, each with waveform and spectrogram.

    Args:
        players: the signals, which share a scale.
        band: highest frequency of the spectrograms in Hz.
    """
    peak = max(player.overview.peak for player in players)
    figures = "".join(_player_html(number, player, peak, band) for number, player in enumerate(players))
    note = "All players have the same loudness, and the band of the model, up to 8 kHz."
    return f'<div class="sm-players">{figures}</div><p class="sm-note">{note}</p>'


def _player_html(number: int, player: Player, peak: float, band: float) -> str:
    title, seconds = escape(player.title), player.overview.seconds
    top = f"{min(band, SAMPLING_RATE / 2) / 1000:g} kHz"
    alt = f"Spectrogram, {title}: 0 to {top}, 0 to {seconds:.1f} seconds"
    return (
        f'<section class="sm-player" aria-labelledby="sm-title-{number}">'
        f'<h3 id="sm-title-{number}">{title}</h3>'
        f'<audio id="sm-audio-{number}" controls preload="metadata" src="{url_of(player.audio)}" '
        f'aria-label="{title}"></audio>'
        f'<div class="sm-track sm-wave" data-seeks="sm-audio-{number}">{waveform_svg(player.overview, peak)}'
        '<i class="sm-head"></i></div>'
        f'<div class="sm-track sm-spectrogram" data-seeks="sm-audio-{number}">'
        f'<img src="{url_of(player.spectrogram)}" alt="{alt}"><i class="sm-head"></i>'
        f'<span class="sm-top" aria-hidden="true">{top}</span></div>'
        f'<div class="sm-axis" aria-hidden="true"><span>0</span><span>{_time(seconds)}</span></div></section>'
    )


def scores_html(columns: Mapping[str, Analysis]) -> str:
    """The scores of the emotions as a table of bars.

    Args:
        columns: analyses by their headings; one column each.
    """
    scored = {heading: analysis.record["scores"] for heading, analysis in columns.items()}
    labels = sorted({label for scores in scored.values() for label in scores}, key=_by(next(iter(scored.values()))))
    if not labels:
        return ""
    colours = emotion_colours(labels)
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in columns)
    rows = ""
    for label in labels:
        cells = "".join(_bar(scores.get(label), colours[label]) for scores in scored.values())
        rows += f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>'
    return (
        '<section><h3>Emotion</h3><table class="sm-scores"><caption class="sm-hidden">Score of each emotion</caption>'
        f'<thead><tr><th scope="col">Emotion</th>{head}</tr></thead><tbody>{rows}</tbody></table></section>'
    )


def _by(scores: Mapping[str, float]) -> Any:
    return lambda label: (-scores.get(label, 0.0), label)


def _bar(score: float | None, colour: str) -> str:
    if score is None:
        return "<td>-</td>"
    bar = f'<span class="sm-bar" style="width:{100 * score:.1f}%;background:{colour}"></span>'
    return f'<td><span class="sm-bars" aria-hidden="true">{bar}</span><span class="sm-score">{score:.0%}</span></td>'


def timeline_html(analysis: Analysis, overview: Overview, player: int) -> str:
    """The segments of speech over the waveform, as buttons that play them; empty for a short single segment.

    Args:
        analysis: the analysis.
        overview: the recording.
        player: number of the player that plays the segments at first.
    """
    segments: list[Segment] = analysis.record.get("segments", [])
    seconds = overview.seconds
    if not segments or (len(segments) == 1 and seconds <= SHORT):
        return ""
    emotions = [segment["emotion"] or UNSURE for segment in segments]
    colours = emotion_colours({*analysis.record["scores"], *emotions})
    buttons = "".join(_segment_button(segment, seconds, colours) for segment in segments)
    legend = "".join(
        f'<li><i style="background:{colours[name]}"></i>{escape(name)}</li>' for name in colours if name in emotions
    )
    return (
        f'<section><h3>Emotion over time</h3><div class="sm-timeline" data-player="sm-audio-{player}">'
        f'<div class="sm-track sm-wave" data-seeks="sm-audio-{player}">{waveform_svg(overview, overview.peak)}'
        '<i class="sm-head"></i></div>'
        '<div class="sm-segments" role="group" '
        f'aria-label="Segments of speech: arrow keys move, Enter plays">{buttons}</div></div>'
        f'<div class="sm-axis" aria-hidden="true"><span>0</span><span>{_time(seconds)}</span></div>'
        f'<ul class="sm-legend">{legend}</ul>'
        f'<p class="sm-note">Click a segment to play it, in the player that you used last.</p>'
        f"{_segments_table(segments)}</section>"
    )


def _segment_button(segment: Segment, seconds: float, colours: Mapping[str, str]) -> str:
    emotion = segment["emotion"] or UNSURE
    left, width = 100 * segment["start"] / seconds, 100 * (segment["end"] - segment["start"]) / seconds
    colour = colours[emotion]
    style = f"left:{left:.3f}%;width:{width:.3f}%;background:{colour};color:{text_colour(colour)}"
    return (
        f'<button type="button" style="{style}" title="{escape(_describe(segment))}" '
        f'data-start="{segment["start"]}" data-end="{segment["end"]}" '
        f'aria-label="Play {escape(_describe(segment))}"><span>{escape(emotion)}</span></button>'
    )


def _segments_table(segments: Sequence[Segment]) -> str:
    rows = "".join(
        f"<tr><td>{_time(segment['start'])}</td><td>{_time(segment['end'])}</td>"
        f"<td>{escape(segment['emotion'] or UNSURE)}</td><td>{max(segment['scores'].values()):.0%}</td></tr>"
        for segment in segments[:MANY]
    )
    more = f"<p>and {len(segments) - MANY} more, in the JSON file</p>" if len(segments) > MANY else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("From", "To", "Emotion", "Score"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<details><summary>{len(segments)} segments as a table</summary>{table}{more}</details>"


def experts_html(analysis: Analysis) -> str:
    """Which expert each task used over time; empty for a model without experts."""
    if not analysis.expert_use:
        return ""
    from matplotlib.colors import to_hex

    parts = ""
    for task, use in analysis.expert_use.items():
        colours, shares = [to_hex(shade) for shade in plain_shades(use.shape[1])], use.mean(axis=0)
        legend = "".join(
            f'<li><i style="background:{colour}"></i>expert {number}: {share:.0%}</li>'
            for number, (colour, share) in enumerate(zip(colours, shares, strict=True))
        )
        parts += (
            f'<h4>{escape(task)}</h4><div class="sm-experts">{experts_svg(use, colours)}</div>'
            f'<ul class="sm-legend">{legend}</ul>'
        )
    seconds = len(analysis.recording) / SAMPLING_RATE
    return (
        "<section><h3>Experts over time</h3>"
        '<p class="sm-note">The tasks share the experts. The router of each task chooses one for every 20 ms; '
        f"columns show shares.</p>{parts}"
        f'<div class="sm-axis" aria-hidden="true"><span>0</span><span>{_time(seconds)}</span></div></section>'
    )


def downloads_html(analysis: Analysis, folder: Path) -> str:
    """Links to the enhanced file and to the JSON, which is written here.

    Args:
        analysis: the analysis.
        folder: where the JSON is written.
    """
    file = folder / f"{Path(analysis.record['file']).stem}.json"
    file.write_text(json.dumps(analysis.record, indent=2), encoding="utf-8")
    files = {"Download the enhanced file (WAV)": analysis.enhanced_file, "Download the results (JSON)": file}
    links = "".join(
        f'<a class="sm-link" href="{url_of(path)}" download="{escape(path.name)}">{text}</a>'
        for text, path in files.items()
        if path is not None
    )
    return f'<p class="sm-downloads">{links}</p>'


def summary_html(analysis: Analysis) -> str:
    """The result in a sentence, with the warnings of the recording."""
    record = analysis.record
    parts = [f"{record['seconds']:.1f} s at {record['sampling_rate']:,} Hz"]
    if "speech_seconds" in record:
        parts.append(f"{record['speech_seconds']:.1f} s of speech")
    warnings = "".join(f'<p class="sm-warning">{escape(warning)}</p>' for warning in record.get("warnings", ()))
    return (
        f'<h2>{escape(record["file"])}</h2><p class="sm-summary"><strong>{escape(emotion_of(record))}</strong> '
        f"<span>{', '.join(parts)}; model {escape(record['model'])}</span></p>{warnings}"
    )


def emotion_of(record: Mapping[str, Any]) -> str:
    """The emotion with its score, or why there is none."""
    if record["emotion"] is not None:
        return f"{record['emotion']}, {record['scores'][record['emotion']]:.0%}"
    return record.get("reason", "enhanced")


def error_html(message: str) -> str:
    """An error that the visitor can fix."""
    return f'<div class="sm-error" role="alert"><strong>This did not work.</strong> {escape(message)}</div>'


def progress_html(done: float, total: float) -> str:
    """How many seconds of a recording are done.

    Args:
        done: seconds that are done.
        total: their total, which may be unknown (infinite).
    """
    known = np.isfinite(total)
    of = f" of {_time(total)}" if known else ""
    value = f'value="{min(done, total):.1f}" max="{total:.1f}"' if known else ""
    text = "Drawing the results" if done >= total else f"Analysing: {_time(done)}{of} done"
    return f'<p class="sm-progress"><label>{text} <progress {value}>{text}</progress></label></p>'


def url_of(path: Path) -> str:
    """Address of a file, relative to the page."""
    return f"gradio_api/file={quote(str(path))}"


def text_colour(background: str) -> str:
    """Black or white, whichever has the greater contrast to a background "#rrggbb".

    Relative luminance and contrast: Web Content Accessibility Guidelines 2.2, W3C.
    """
    values = np.array([int(background[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    return "#000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#fff"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds, seconds >= 3_600)


def _describe(segment: Segment) -> str:
    emotion = segment["emotion"] or UNSURE
    return f"{_time(segment['start'])} to {_time(segment['end'])}: {emotion}, {max(segment['scores'].values()):.0%}"
