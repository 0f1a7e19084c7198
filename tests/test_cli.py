# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The command's promises: what is written where, in what form, and what happens when something is wrong."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TINY
from rich.cells import cell_len
from typer.testing import CliRunner

from modeling_sparse_merit import __version__
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.cli.enhance import DEMO_RECORDING

FIELDS = ["file", "seconds", "sampling_rate", "emotion", "scores", "enhanced", "channel", "level_dbfs"]
FIELDS += ["clipped_ratio", "segments", "speech_seconds", "schema_version", "model", "settings_hash", "resume"]


@pytest.fixture
def run(tiny_checkpoint, tmp_path, monkeypatch):
    """Runs `sparse-merit enhance` with the tiny checkpoint in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def enhance(*arguments):
        return CliRunner().invoke(
            app,
            ["enhance", "--model", str(tiny_checkpoint), "--device", "cpu", "--vad", "level", *map(str, arguments)],
        )

    return enhance


@pytest.fixture
def record(speech_clip, tmp_path):
    """`record(name, seconds, sampling_rate, channels)` writes a recording and returns its path."""

    def write(name, seconds=0.5, sampling_rate=16_000, channels=1):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        clip = speech_clip(seconds=seconds, sampling_rate=sampling_rate)
        soundfile.write(path, np.stack([clip] * channels, axis=1), sampling_rate)
        return path

    return write


def results_in(folder):
    return [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text().splitlines()]


def test_each_recording_gets_an_enhanced_file_and_a_line(run, record):
    record("calls/one.wav", seconds=0.7)
    result = run("calls/one.wav", "-o", "out")

    assert result.exit_code == 0, result.output
    (line,) = results_in("out")
    assert list(line) == FIELDS
    assert line["file"] == str(Path("calls/one.wav"))
    assert (line["seconds"], line["sampling_rate"]) == (0.7, 16_000)
    assert sum(line["scores"].values()) == pytest.approx(1, abs=1e-4)
    assert line["scores"][line["emotion"]] == max(line["scores"].values())
    assert line["enhanced"] == str(Path("out/one.enhanced.wav"))
    assert soundfile.info(line["enhanced"]).frames == 11_200
    for shown in ("File", "Seconds", "Emotion", "angry", "neutral", "0.70", line["emotion"]):
        assert shown in result.stdout


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize(("sampling_rate", "channels"), [(8_000, 1), (22_050, 2), (44_100, 1)])
def test_rate_and_length_stay_the_recordings_own_in_mono(run, record, name, sampling_rate, channels):
    path = record(name, 0.5013, sampling_rate, channels)
    samples = len(soundfile.read(path)[0])

    assert run(path, "-o", "out").exit_code == 0

    written = soundfile.info("out/a.enhanced.wav")
    assert (written.samplerate, written.channels, written.frames) == (sampling_rate, 1, samples)


def test_rate_can_be_chosen(run, record):
    record("a.wav", seconds=0.5, sampling_rate=44_100)
    assert run("a.wav", "-o", "out", "--rate", 8_000).exit_code == 0
    written = soundfile.info("out/a.enhanced.wav")
    assert (written.samplerate, written.frames) == (8_000, 4_000)
    assert results_in("out")[0]["sampling_rate"] == 44_100


def test_a_quieter_recording_comes_back_as_much_quieter(run, speech_clip, tmp_path):
    clip = speech_clip(seconds=1.0)
    soundfile.write(tmp_path / "loud.wav", clip, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "quiet.wav", clip / 8, 16_000, subtype="FLOAT")
    assert run("loud.wav", "quiet.wav", "-o", "out").exit_code == 0
    loud, quiet = (soundfile.read(f"out/{name}.enhanced.wav")[0] for name in ("loud", "quiet"))
    np.testing.assert_allclose(8 * quiet, loud, atol=8 / 2**15)


def test_folders_are_searched_in_depth_and_keep_their_subfolders(run, record):
    for name in ("in/x.wav", "in/a/x.wav", "in/a/b/y.FLAC", "in/.hidden.wav"):
        record(name)
    Path("in/notes.txt").write_text("no audio")

    assert run("in", "-o", "out").exit_code == 0

    assert {line["enhanced"] for line in results_in("out")} == {
        str(Path("out") / name) for name in ("x.enhanced.wav", "a/x.enhanced.wav", "a/b/y.enhanced.wav")
    }


def test_quoted_globs_are_expanded(run, record):
    for name in ("in/a1.wav", "in/a2.wav", "in/b.wav", "in/deep/a3.wav"):
        record(name)
    assert run("in/a*.wav", "-o", "one").exit_code == 0
    assert [Path(line["file"]).name for line in results_in("one")] == ["a1.wav", "a2.wav"]
    assert run("in/**/a*.wav", "-o", "two").exit_code == 0
    assert {Path(line["file"]).name for line in results_in("two")} == {"a1.wav", "a2.wav", "a3.wav"}


def test_a_file_whose_name_looks_like_a_glob_is_a_file(run, record):
    record("call [1].wav")
    assert run("call [1].wav", "-o", "out").exit_code == 0
    assert Path("out/call [1].enhanced.wav").exists()


def test_recordings_of_one_name_do_not_overwrite_each_other(run, record):
    for name in ("a/x.wav", "b/x.wav", "x.flac", "X.wav", "x-2.wav"):
        record(name)
    assert run("a/x.wav", "b/x.wav", "x.flac", "X.wav", "x-2.wav", "-o", "out").exit_code == 0
    written = [line["enhanced"].casefold() for line in results_in("out")]
    assert len(set(written)) == 5
    assert all(Path(line["enhanced"]).exists() for line in results_in("out"))


def test_a_recording_named_twice_is_done_once(run, record):
    record("in/x.wav")
    assert run("in", "in/x.wav", "in/*.wav", "-o", "out").exit_code == 0
    assert len(results_in("out")) == 1


def test_results_inside_the_input_folder_are_not_inputs_of_the_next_run(run, record):
    record("in/x.wav")
    for _ in range(2):
        assert run("in", "-o", "in").exit_code == 0
        assert [line["file"] for line in results_in("in")] == [str(Path("in/x.wav"))]
    written = sorted(path.name for path in Path("in").iterdir())
    assert written == [".sparse-merit.lock", "results.jsonl", "x.enhanced.wav", "x.wav"]
    again = run("in/x.enhanced.wav", "-o", "out")
    assert again.exit_code == 2 and "earlier run" in again.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_utf8_does_not_stop_the_rest(run, record, tmp_path):
    os.rename(record("plain.wav"), tmp_path / os.fsdecode(b"caf\xe9.wav"))
    record("z.wav")
    assert run(".", "-o", "out").exit_code in (0, 1)
    first, second = results_in("out")
    assert Path(first["file"]).exists()
    assert second["enhanced"] == str(Path("out/z.enhanced.wav"))


def test_what_a_folder_holds_besides_is_named_with_the_remedy(run, record, monkeypatch, tmp_path):
    for name in ("in/a.aiff", "in/b.w64", "in/c.au", "in/d.caf", "in/e.wav"):
        record(name)
    for name, content in (("in/memo.m4a", b"\0\0\0\x20ftypM4A " + bytes(99)), ("in/notes.txt", b"no audio")):
        Path(name).write_bytes(content)
    monkeypatch.setenv("PATH", str(tmp_path))  # without ffmpeg
    result = run("in", "-o", "out")
    assert result.exit_code == 1
    assert "5 of 6 recordings done" in result.stdout
    assert "Failed: in/memo.m4a: is MP4 (M4A), which libsndfile does not read. Install ffmpeg" in result.stderr
    assert "notes.txt" not in result.stderr


@pytest.mark.parametrize("seconds", [0.0002, 0.015])
def test_a_recording_that_is_too_short_says_how_long_it_is(run, record, seconds):
    record("short.wav", seconds, channels=2)
    result = run("short.wav", "-o", "out")
    assert result.exit_code == 1
    assert f"Failed: short.wav: lasts {round(16_000 * seconds) / 16:.3g} ms (" in result.stderr


def test_many_channels_are_mixed(run, record):
    record("array.wav", channels=64)
    assert run("array.wav", "-o", "out").exit_code == 0
    assert results_in("out")[0]["channel"] == "mix"


@pytest.mark.parametrize("width", [80, 60, 40])
def test_the_table_has_a_line_for_each_recording_at_any_width(run, record, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    names = ["a.wav", "日本語の録音.wav", "a_folder_with_a_long_name/" * 3 + "and_a_recording_of_the_14th_of_May.wav"]
    for name in names:
        record(name)
    lines = run(*names, "-o", "out").stdout.splitlines()
    rows = [line for line in lines if ".wav" in line]
    assert len(rows) == 3 and all(cell_len(line) <= width for line in lines if "results.jsonl" not in line)
    assert all(results_in("out")[0]["emotion"] in row for row in rows[:1])
    assert "a.wav" in rows[0] and "a_" in rows[2] and "….wav" not in rows[2] and rows[2].count("…") == 1
    assert "y.wav" in rows[2] and results_in("out")[2]["emotion"] in rows[2]


def test_progress_tells_seconds_of_audio(tiny_checkpoint, record, tmp_path):
    """On a terminal, which `script` provides."""
    if shutil.which("script") is None:
        pytest.skip("needs the program `script`")
    for index in range(4):
        record(f"in/{index}.wav", seconds=2)
    arguments = [
        "enhance",
        "in",
        "-o",
        "out",
        "--model",
        str(tiny_checkpoint),
        "--batch-seconds",
        "2",
        "--vad",
        "level",
    ]
    command = shlex.join([*COMMAND, *arguments, "--device", "cpu"])
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "of 0:08 of audio" in done.stdout


@pytest.mark.parametrize("batch_seconds", [1, 1.2, 40])
def test_bad_files_are_reported_and_do_not_stop_the_rest(run, record, batch_seconds):
    record("a.wav", seconds=0.6)
    Path("b.wav").write_bytes(b"this is no audio")
    record("c.wav", seconds=0.4)
    record("d.wav", seconds=0.01)

    result = run("a.wav", "b.wav", "missing.wav", "c.wav", "d.wav", "-o", "out", "--batch-seconds", batch_seconds)

    assert result.exit_code == 1
    lines = results_in("out")
    assert [line["file"] for line in lines] == ["a.wav", "b.wav", "missing.wav", "c.wav", "d.wav"]
    assert ["error" in line for line in lines] == [False, True, True, False, True]
    assert list(lines[1]) == ["file", "error", "schema_version", "model", "settings_hash", "resume"]
    assert "2 of 5 recordings done" in result.stdout
    for name in ("b.wav", "missing.wav", "d.wav"):
        assert f"Failed: {name}: " in result.stderr


def test_batches_give_the_same_results_as_one_by_one(run, record):
    for index, seconds in enumerate((0.9, 0.4, 0.65)):
        record(f"in/{index}.wav", seconds)
    assert run("in", "-o", "one").exit_code == 0
    assert run("in", "-o", "three", "--batch-seconds", 10).exit_code == 0
    for one, three in zip(results_in("one"), results_in("three"), strict=True):
        assert one["scores"] == pytest.approx(three["scores"], abs=2e-5)
        first, second = (soundfile.read(line["enhanced"])[0] for line in (one, three))
        np.testing.assert_allclose(first, second, atol=2 / 2**15)


def test_a_small_precision_says_almost_the_same(run, record):
    record("a.wav", seconds=1.0)
    assert run("a.wav", "-o", "full").exit_code == 0
    assert run("a.wav", "-o", "half", "--precision", "bf16").exit_code == 0
    (full,), (half,) = results_in("full"), results_in("half")
    assert half["scores"] == pytest.approx(full["scores"], abs=0.05) and half["scores"] != full["scores"]


def test_plot_draws_a_picture_of_each_recording(run, record):
    pytest.importorskip("matplotlib")
    record("a.wav", seconds=1.0, sampling_rate=44_100)
    assert run("a.wav", "-o", "out", "--plot").exit_code == 0
    from matplotlib.image import imread

    picture = imread("out/a.enhanced.png")
    assert picture.shape[1] > 1_000 and picture[..., :3].std() > 0.1


@pytest.mark.parametrize(("sampling_rate", "highest"), [(8_000, 4.0), (44_100, 8.0)])
def test_a_picture_ends_at_the_recordings_own_highest_frequency(run, record, monkeypatch, sampling_rate, highest):
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn = []
    monkeypatch.setattr(figure, "savefig", lambda self, path, **options: (drawn.append(self), Path(path).touch()))
    record("a.wav", seconds=1.0, sampling_rate=sampling_rate)
    assert run("a.wav", "-o", "out", "--plot").exit_code == 0
    spectrograms = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_ylim() for axes in spectrograms] == [(0, highest)] * 2
    labels = {axes.get_ylabel() for axes in drawn[0].axes}
    assert {"Power (dB relative to the maximum)", "experts of\nenhancement", "experts of\nemotion"} <= labels
    assert all(image.get_clim() == (-80, 0) for axes in spectrograms for image in axes.images)


def test_a_recording_of_silence_is_no_reason_to_fail(run, tmp_path):
    pytest.importorskip("matplotlib")
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    result = run("silence.wav", "-o", "out", "--plot")
    assert result.exit_code == 0, result.output
    assert np.abs(soundfile.read("out/silence.enhanced.wav")[0]).max() < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.wav"], "No recording found in nowhere.wav"),
        (["*.wav"], "No recording found in"),
        (["empty"], "No recording found in empty"),
        (["a.flac", "--model", "./nowhere"], "'./nowhere' is not a folder"),
        (["a.flac", "--model", "empty"], "has no config.json"),
        (["a.flac", "--device", "toaster"], "Device 'toaster' is not usable here"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(run, record, arguments, message):
    Path("empty").mkdir()
    record("a.flac")
    result = run(*arguments, "-o", "out")
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not Path("out").exists()


def test_info_says_what_the_checkpoint_is(tiny_checkpoint):
    from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion

    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    result = CliRunner().invoke(app, ["info", "--model", str(tiny_checkpoint)])
    assert result.exit_code == 0, result.output
    for shown in ("enhancement", "emotion", "angry, sad, happy, neutral", "3 of width 32", "sparse"):
        assert shown in result.stdout
    assert f"{sum(p.numel() for p in model.parameters()):,}" in result.stdout
    assert "Licence" not in result.stdout


def test_info_shows_what_the_card_states_within_80_columns():
    done = CliRunner().invoke(app, ["info", "--model", "tiny"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    evaluation = json.loads((TINY.parents[2] / "benchmarks" / "results" / "tiny" / "evaluation.json").read_text())
    condition = next(one for one in evaluation["conditions"] if one["condition"] == "urbansound8k_-5dB")
    low, high = condition["emotion"]["macro_f1_interval"]
    expected = f"urbansound8k -5 {condition['emotion']['macro_f1']:.3f} [{low:.3f}, {high:.3f}] 595"
    assert expected in [" ".join(line.split()) for line in lines]
    use = [
        " / ".join(f"{share:.2f}" for share in condition["expert_use"][task]) for task in ("enhancement", "emotion")
    ]
    assert f"urbansound8k -5 {use[0]} {use[1]}" in [" ".join(line.split()) for line in lines]
    assert any("RAVDESS" in line and "CC BY-NC-SA" in line for line in lines)
    assert "Not known" not in done.stdout


def test_info_says_what_is_not_known_and_its_parts_add_up(tiny_checkpoint):
    shown = " ".join(CliRunner().invoke(app, ["info", "--model", str(tiny_checkpoint)]).stdout.split())
    assert "Not known, since there is no model card: Emotion, SI-SDR in dB" in shown
    total, parts = re.search(r"Parameters ([\d,]+): (.*?) Not known", shown).groups()
    sizes = [int(size.replace(",", "")) for size in re.findall(r" (\d[\d,]*\d)", parts)]
    assert len(sizes) == 4 and sum(sizes) == int(total.replace(",", ""))


def test_info_measures_the_latency(tiny_checkpoint):
    shown = CliRunner().invoke(app, ["info", "--model", str(tiny_checkpoint), "--benchmark"]).stdout
    assert re.search(r"Latency +\d+ ms on 1 thread", shown)


def test_info_reads_the_licence_from_the_card(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "with_card")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n# A model\n")
    assert "cc-by-nc-sa-4.0" in CliRunner().invoke(app, ["info", "--model", str(folder)]).stdout


def test_demo_shows_where_its_results_lie(tiny_checkpoint, tmp_path):
    pytest.importorskip("matplotlib")
    output = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "--model", str(tiny_checkpoint), "-o", str(output)])
    assert result.exit_code == 0, result.output
    for name in ("noisy_speech.flac", "noisy_speech.enhanced.wav", "noisy_speech.enhanced.png", "results.jsonl"):
        assert (output / name).exists()
        assert str(output / name) in result.stdout
    before, after = soundfile.info(DEMO_RECORDING), soundfile.info(output / "noisy_speech.enhanced.wav")
    assert (after.samplerate, after.frames) == (before.samplerate, before.frames)


def test_evaluate_without_its_configuration_says_so(tmp_path):
    result = CliRunner().invoke(app, ["evaluate", "--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2 and "none.yaml" in result.stderr


COMMAND = [sys.executable, "-c", "from modeling_sparse_merit.cli import app; app()"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}


def test_the_installed_command_runs_as_a_process(tiny_checkpoint, record, tmp_path):
    record("a.wav", seconds=0.5)
    arguments = ["enhance", "a.wav", "-o", "out", "--model", str(tiny_checkpoint), "--device", "cpu", "--vad", "level"]

    done = subprocess.run(COMMAND + arguments, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "1 of 1 recordings done" in done.stdout
    assert results_in(tmp_path / "out")[0]["enhanced"] == str(Path("out/a.enhanced.wav"))


def test_help_and_version_do_not_load_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from modeling_sparse_merit.cli import app;"
        "r = CliRunner().invoke(app, sys.argv[1:]); print(r.output);"
        "sys.exit(r.exit_code or sum(name in sys.modules for name in ('torch', 'transformers', 'numpy', 'soundfile')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for arguments, shown in ((["--help"], "enhance"), (["enhance", "--help"], "--plot"), (["--version"], __version__)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert shown in done.stdout


def test_help_says_that_nothing_above_8_khz_is_kept():
    shown = CliRunner().invoke(app, ["enhance", "--help"]).stdout
    assert "enhanced speech has no content above 8 kHz" in " ".join(shown.replace("│", " ").split())


def test_the_demo_runs_with_the_embedded_checkpoint(tmp_path):
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert results_in(tmp_path)[0]["emotion"] in {"angry", "sad", "happy", "neutral"}
