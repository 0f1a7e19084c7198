# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The page of `sparse-merit app` without a browser: analysis, limits, loudness, noise test, messages, Space."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline, load_audio
from modeling_sparse_merit.app.actions import Actions, verdict_html
from modeling_sparse_merit.app.analysis import Analysis, Source, analyse, read_recording
from modeling_sparse_merit.app.charts import experts_svg
from modeling_sparse_merit.app.examples import EXAMPLES
from modeling_sparse_merit.app.limits import Limits
from modeling_sparse_merit.app.loudness import at_equal_loudness, loudness
from modeling_sparse_merit.app.models import Models
from modeling_sparse_merit.app.noise import NOISES, add_noise
from modeling_sparse_merit.app.results import text_colour, timeline_html
from modeling_sparse_merit.app.space import PAGE_REQUIREMENTS, export_space
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.inference.batching import enhance_recordings
from modeling_sparse_merit.inference.files import Recording
from modeling_sparse_merit.plotting.overview import Overview
from modeling_sparse_merit.plotting.timeline import COLOURS, OTHER_COLOURS, UNSURE_COLOUR

RATE = 16_000


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture
def actions(tiny_checkpoint, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    return Actions(Models(tiny_checkpoint, "cpu"), Limits(), folder)


@pytest.fixture
def call(speech_clip, tmp_path):
    """A stereo recording at 22,050 Hz of 3 s."""
    path = tmp_path / "0f3a.wav"
    left, right = (speech_clip(3.0, 22_050, seed) for seed in (0, 1))
    soundfile.write(path, np.stack([left, right], axis=1), 22_050)
    return Source(path, "my <call>.wav")


def finish(steps):
    """Runs an action to its end; returns its progress and its result."""
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            return progress, end.value


def test_the_analysis_equals_that_of_the_command(pipe, call, tmp_path):
    progress, analysis = finish(analyse(pipe, call, tmp_path))
    target = tmp_path / "command.enhanced.wav"
    (record,) = enhance_recordings(pipe, [Recording(call.path, target)])
    same = ("seconds", "sampling_rate", "emotion", "channel", "level_dbfs", "clipped_ratio", "speech_seconds")
    assert {key: analysis.record[key] for key in same} == {key: record[key] for key in same}
    assert analysis.record["scores"] == pytest.approx(record["scores"], abs=1e-5)
    np.testing.assert_allclose(load_audio(analysis.enhanced_file), load_audio(target), atol=1e-4)
    np.testing.assert_allclose(analysis.recording, load_audio(call.path), atol=1e-6)
    assert progress[-1].done == pytest.approx(3.0, abs=0.01) and progress[-1].total == pytest.approx(3.0)


def test_the_record_calls_the_recording_by_its_name_on_the_page(pipe, call, tmp_path):
    _, analysis = finish(analyse(pipe, call, tmp_path))
    assert analysis.record["file"] == "my <call>.wav"
    assert analysis.record["enhanced"] == "my <call>.enhanced.wav"
    assert str(tmp_path) not in json.dumps(analysis.record)


def test_the_use_of_the_experts_covers_the_recording(pipe, call, tmp_path):
    _, analysis = finish(analyse(pipe, call, tmp_path))
    assert set(analysis.expert_use) == {"enhancement", "emotion"}
    for use in analysis.expert_use.values():
        assert use.shape == (-(-len(analysis.recording) // 320), 3)
        np.testing.assert_allclose(use.sum(axis=1), 1)


@pytest.mark.parametrize("channel, expected", [("left", 1), ("right", 2), ("mix", "mix")])
def test_a_channel_can_be_chosen(pipe, call, tmp_path, channel, expected):
    _, analysis = finish(analyse(pipe, call, tmp_path, channel))
    assert analysis.record["channel"] == expected
    np.testing.assert_allclose(analysis.recording, load_audio(call.path, channel=channel), atol=1e-6)


def test_limits_are_checked_before_decoding(pipe, call, tmp_path):
    too_long, too_large = Limits(minutes=0.04), Limits(megabytes=0)
    with pytest.raises(ValueError, match=r"my <call>.wav lasts more than 0.04 minutes; .* up to 0.04 minutes"):
        next(analyse(pipe, call, tmp_path, limits=too_long))
    with pytest.raises(ValueError, match=r"my <call>.wav has .* MB; this page takes files of up to"):
        next(analyse(pipe, call, tmp_path, limits=too_large))


def test_a_recording_is_measured_while_it_is_decoded_if_its_header_does_not_say(call, monkeypatch):
    monkeypatch.setattr("modeling_sparse_merit.app.analysis.audio_seconds", lambda path: float("inf"))
    assert len(read_recording(call, limits=Limits(minutes=0.06))) == pytest.approx(3 * RATE, abs=2)
    with pytest.raises(ValueError, match="lasts more than 0.04 minutes"):
        read_recording(call, limits=Limits(minutes=0.04))


@pytest.mark.parametrize(
    "content, message", [(b"no audio" * 100, "Cannot decode notes.wav"), (b"", "notes.wav"), (b"RIFF", "notes.wav")]
)
def test_a_bad_file_is_named_as_the_visitor_knows_it(pipe, tmp_path, content, message):
    path = tmp_path / "8c1d.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        finish(analyse(pipe, Source(path, "notes.wav"), tmp_path))
    assert str(tmp_path) not in str(raised.value)


def test_loudness_of_the_reference_tone():
    """ITU-R BS.1770-5: a sine of 997 Hz at 0 dBFS in one channel has -3.01 LKFS."""
    for rate in (16_000, 44_100, 48_000):
        tone = np.sin(2 * np.pi * 997 * np.arange(5 * rate) / rate)
        assert loudness(tone, rate) == pytest.approx(-3.01, abs=0.02)


def test_pauses_do_not_change_the_loudness():
    tone = 0.1 * np.sin(2 * np.pi * 997 * np.arange(10 * RATE) / RATE)
    assert loudness(np.concatenate([tone, np.zeros(20 * RATE)]), RATE) == pytest.approx(-23.01, abs=0.1)
    assert loudness(np.zeros(RATE), RATE) == -np.inf


def test_before_and_after_are_equally_loud(speech_clip):
    clip = speech_clip(3.0)
    scaled = at_equal_loudness([0.01 * clip, clip, np.zeros(RATE)], RATE)
    assert loudness(scaled[0], RATE) == pytest.approx(loudness(scaled[1], RATE), abs=0.01)
    assert max(np.abs(waveform).max() for waveform in scaled) <= 1
    assert not scaled[2].any()


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("snr_db", [-10, 0, 12.5])
def test_the_noise_has_the_chosen_ratio(speech_clip, noise, snr_db):
    clean = 0.02 * speech_clip(2.0)  # so quiet that the mixture does not reach full scale
    added = add_noise(clean, noise, snr_db).astype(np.float64) - clean
    achieved = 10 * np.log10((clean.astype(np.float64) ** 2).sum() / (added**2).sum())
    assert achieved == pytest.approx(snr_db, abs=0.1)


def test_a_loud_mixture_is_scaled_and_keeps_its_ratio(speech_clip):
    clean = speech_clip(2.0)
    mixture = add_noise(clean, "Ventilation", -10)
    assert np.abs(mixture).max() == pytest.approx(1, abs=1e-6)
    quiet = add_noise(0.01 * clean, "Ventilation", -10)
    np.testing.assert_allclose(mixture / np.abs(mixture).max(), quiet / np.abs(quiet).max(), atol=1e-5)


def test_a_noise_for_silence_is_refused():
    with pytest.raises(ValueError, match="quiet.wav is silent, so it has no signal-to-noise ratio"):
        add_noise(np.zeros(RATE, np.float32), "Engine", 0, "quiet.wav")
    with pytest.raises(ValueError, match="There is no noise 'Rain'; expected one of Ventilation"):
        add_noise(np.ones(RATE, np.float32), "Rain", 0)


def analysis_of(emotion, scores, **fields):
    record = {"file": "a.wav", "emotion": emotion, "scores": scores, **fields}
    return Analysis(record, np.zeros(20 * RATE, np.float32), None, None, {})


def test_the_verdict_says_whether_the_emotion_holds():
    sad, happy = (
        analysis_of(emotion, {"happy": 0.3 + 0.4 * (emotion == "happy"), "sad": 0.3 + 0.4 * (emotion == "sad")})
        for emotion in ("sad", "happy")
    )
    silent = analysis_of(None, {}, reason="no speech")
    assert "The emotion holds" in verdict_html(sad, sad)
    assert "The emotion flips" in verdict_html(sad, happy) and "clean: sad, 70%; with noise: happy" in verdict_html(
        sad, happy
    )
    assert "The emotion flips" in verdict_html(sad, silent) and "with noise: no speech" in verdict_html(sad, silent)
    assert "emotion" not in verdict_html(silent, silent)  # a model without this task


def test_results_show_all_parts_and_escape_names(actions, call):
    model = actions.models.names[0]
    _, html = finish(actions.enhance(call, actions.new_folder(), model, "Mean of all channels"))
    assert "my &lt;call&gt;.wav" in html and "<call>" not in html
    for part in ('<h3 id="sm-title-0">Before', '<h3 id="sm-title-1">After', "Experts over time", "(JSON)", "(WAV)"):
        assert part in html
    addresses = [value for value in sources(html) if value.startswith("gradio_api/file=")]
    assert len(addresses) == 6  # two players, two spectrograms, two downloads
    assert all(
        Path(urllib.request.url2pathname(each.removeprefix("gradio_api/file="))).is_file() for each in addresses
    )


def sources(html):
    """Values of `src` and `href`."""
    values = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            values.extend(value for name, value in attributes if name in ("src", "href"))

    Reader().feed(html)
    return values


def test_the_noise_test_shows_three_players_and_both_scores(actions, call):
    arguments = (actions.models.names[0], "Left", "Voices", -5)
    _, html = finish(actions.compare(call, actions.new_folder(), *arguments))
    assert html.count("<audio") == 3
    assert "Clean</th>" in html and "With noise</th>" in html and "Voices, -5 dB" in html


def test_segments_of_a_long_recording_can_be_played():
    segments = [
        {"start": 0.5, "end": 4.0, "emotion": "sad", "scores": {"happy": 0.2, "sad": 0.8}},
        {"start": 5.0, "end": 15.0, "emotion": "happy", "scores": {"happy": 0.6, "sad": 0.4}},
    ]
    overview = Overview.of(np.zeros(20 * RATE, np.float32), RATE)
    html = timeline_html(analysis_of("happy", {"happy": 0.5, "sad": 0.5}, segments=segments), overview, 1)
    assert 'data-start="5.0" data-end="15.0" aria-label="Play 5.0 s to 15.0 s: happy, 60%"' in html
    assert "left:25.000%;width:50.000%" in html
    assert timeline_html(analysis_of(None, {}, segments=[]), overview, 1) == ""


def test_shares_of_the_experts_fill_the_height():
    """Two frames of expert 0, two of expert 1: the left half belongs to the first, the right half to the other."""
    svg = experts_svg(np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32), ["#000", "#fff"])
    assert "M0 0.0H1V100.0H0Z" in svg and "M2 0.0H3V100.0H2Z" in svg and 'viewBox="0 0 4 100"' in svg


@pytest.mark.parametrize("background", [*COLOURS.values(), *OTHER_COLOURS, UNSURE_COLOUR])
def test_names_of_emotions_are_readable_on_their_colours(background):
    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    text = {"#000": 0.0, "#fff": 1.0}[text_colour(background)]
    low, high = sorted((text, luminance(background)))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_results_of_a_visitor_are_replaced_and_those_of_a_failure_removed(actions, call, tmp_path):
    import gradio

    from modeling_sparse_merit.app.page import _handler

    handle = _handler(gradio, actions, actions.enhance)
    settings = (actions.models.names[0], "Mean of all channels")
    *_, (html, first, _) = handle(call, None, *settings)
    assert first.is_dir() and "After" in html
    *_, (_, second, _) = handle(call, first, *settings)
    assert list(actions.folder.iterdir()) == [second]
    *_, (html, kept, _) = handle(Source(tmp_path / "gone.wav", "gone.wav"), second, *settings)
    assert "gone.wav" in html and kept == second and list(actions.folder.iterdir()) == [second]
    stopped = handle(call, second, *settings)
    next(stopped), next(stopped)
    stopped.close()
    assert list(actions.folder.iterdir()) == [second]
    ((html, *_),) = handle(None, second, *settings)
    assert "No recording is chosen" in html


def test_a_visitor_is_told_when_the_model_cannot_be_loaded(call, tiny_checkpoint, tmp_path):
    import gradio

    from modeling_sparse_merit.app.page import _handler

    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    actions = Actions(Models(checkpoint, "cpu"), Limits(), tmp_path)
    (checkpoint / "model.safetensors").unlink()
    *_, (html, *_) = _handler(gradio, actions, actions.enhance)(call, None, "model", "Left")
    assert 'role="alert"' in html and "model.safetensors" in html


def test_examples_are_short_and_come_with_the_package():
    assert len(EXAMPLES) == 3
    for example in EXAMPLES:
        assert 2 < soundfile.info(example.path).duration < 30 and example.path.stat().st_size < 200_000


def test_models_are_those_of_the_package_and_the_given_one(tiny_checkpoint):
    assert Models().names == ["base", "tiny", "enhance_free"]
    assert Models("tiny").names == ["tiny", "base", "enhance_free"]
    assert Models(tiny_checkpoint).names == [tiny_checkpoint.name, "base", "tiny", "enhance_free"]
    assert (
        Models().licence("base") == "cc-by-nc-sa-4.0" and Models(tiny_checkpoint).licence(tiny_checkpoint.name) is None
    )


def test_without_gradio_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["app"])
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        'Error: This needs the package `gradio`: pip install "modeling-sparse-merit[app]"'
    )


def test_a_space_has_what_it_needs(tiny_checkpoint, tmp_path):
    folder = export_space(tiny_checkpoint, tmp_path / "space")
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(header)
    assert settings["sdk"] == "gradio" and settings["app_file"] == "app.py"
    assert settings["sdk_version"].startswith("6.") and len(settings["short_description"]) <= 60
    assert (folder / tiny_checkpoint.name / "model.safetensors").is_file()
    assert not (folder / "modeling_sparse_merit" / "checkpoints").exists()
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert lines[1:] == list(PAGE_REQUIREMENTS)
    assert str(tmp_path) not in text + (folder / "app.py").read_text()


def test_requirements_of_a_space_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {*project["dependencies"], *extras["app"], *extras["demo"]}
    assert declared - set(PAGE_REQUIREMENTS) == {"modeling-sparse-merit[demo]", "rich>=13", "typer>=0.16"}
    assert set(PAGE_REQUIREMENTS) <= declared


def test_a_space_is_written_for_a_model_of_the_hub_without_its_files(tmp_path):
    folder = export_space("someone/model", tmp_path / "space")
    assert "models:\n- someone/model\n" in (folder / "README.md").read_text()
    assert "serve('someone/model'" in (folder / "app.py").read_text()
    assert not list(folder.glob("*/model.safetensors"))


def test_only_a_space_is_replaced(tmp_path, tiny_checkpoint):
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        export_space("someone/model", folder)
    with pytest.raises(FileExistsError, match="it holds something else than a Space"):
        export_space("someone/model", folder, overwrite=True)
    (folder / "thesis.tex").unlink()
    export_space("someone/model", folder)
    export_space("someone/other", folder, overwrite=True)
    assert "someone/other" in (folder / "app.py").read_text()


def test_options_of_other_exports_do_not_apply_to_a_space(tmp_path):
    result = CliRunner().invoke(app, ["export", str(tmp_path / "space"), "--space", "--half"])
    assert result.exit_code == 2 and "leave out --onnx, --half, --precision and --results" in result.stderr


@pytest.mark.slow
def test_the_space_runs(tiny_checkpoint, tmp_path):
    """Its `app.py` uses the package and the checkpoint in its folder, and shows the page on loopback."""
    folder = export_space(tiny_checkpoint, tmp_path / "space")
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        config = json.loads(fetched(f"http://127.0.0.1:{port}/config", server))
    finally:
        server.terminate()
        server.wait(30)
    labels = [component["props"].get("label") for component in config["components"]]
    assert {"Model", "Channel", "Noise"} <= set(labels)
    text = json.dumps(config)
    assert tiny_checkpoint.name in text and "processed on the server of this page" in text
    assert config["analytics_enabled"] is False


@pytest.mark.skipif(os.name == "nt", reason="Windows ends other processes without a signal")
def test_the_command_serves_this_computer_alone_and_leaves_no_files(tiny_checkpoint, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "modeling_sparse_merit.cli", "app", "--model", str(tiny_checkpoint)]
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        opened = next(line for line in iter(server.stdout.readline, b"") if line.startswith(b"Open"))
        assert f"http://127.0.0.1:{port}/ in a browser." in opened.decode()
        assert "stay on this computer" in fetched(f"http://127.0.0.1:{port}/config", server).decode()
        connections = psutil.Process(server.pid).net_connections("inet")
        listening = {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"} and list(tmp_path.glob("sparse-merit-app-*"))
    finally:
        server.terminate()
        try:
            output = server.communicate(timeout=120)[0].decode()
        finally:
            server.kill()
    assert "Traceback" not in output
    assert not list(tmp_path.glob("sparse-merit-app-*"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetched(url, server, seconds=500):
    """The content of an address, as soon as the server is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return response.read()
        except OSError:
            time.sleep(0.5)
    server.kill()
    pytest.fail(f"no page at {url}: {server.stdout.read().decode()[-2000:]}")
