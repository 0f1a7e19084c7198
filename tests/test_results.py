# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Results of `enhance` are never lost: a second run continues the first, whatever ended it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from typer.testing import CliRunner

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.inference.files import MAX_NAME_BYTES, Recording, find_recordings, target_for
from modeling_sparse_merit.inference.results import Results, Settings

COMMAND = [
    sys.executable,
    "-c",
    "from modeling_sparse_merit.cli import app; app()",
    "enhance",
    "--device",
    "cpu",
    "--vad",
    "level",
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a recording that never comes: a named pipe")


@pytest.fixture
def run(tiny_checkpoint, tmp_path, monkeypatch):
    """Runs `sparse-merit enhance` with the tiny checkpoint in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def enhance(*arguments, model=tiny_checkpoint):
        return CliRunner().invoke(
            app, ["enhance", "--model", str(model), "--device", "cpu", "--vad", "level", *map(str, arguments)]
        )

    return enhance


@pytest.fixture
def record(speech_clip, tmp_path):
    """`record(name, seed=0)` writes a recording and returns its path."""

    def write(name, seed=0, seconds=0.5):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, speech_clip(seconds=seconds, seed=seed), 16_000)
        return path

    return write


def results_in(folder):
    return [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text().splitlines()]


def files_in(folder):
    return sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith("."))


def start(folder, checkpoint, *arguments):
    return subprocess.Popen(
        [*COMMAND, "--model", str(checkpoint), *map(str, arguments)],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # as in a terminal: a shell starts what runs in its background deaf to Ctrl-C, and children inherit that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(is_so, process, seconds=120):
    """Waits until something is so, while a process runs."""
    end = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


# A second run --------------------------------------------------------------------------------------------------------


def test_a_second_run_adds_to_the_first(run, record):
    record("a.wav"), record("b.wav", 1)
    assert run("a.wav", "-o", "out").exit_code == 0
    assert run("b.wav", "-o", "out").exit_code == 0
    assert [line["file"] for line in results_in("out")] == ["a.wav", "b.wav"]
    assert files_in("out") == ["a.enhanced.wav", "b.enhanced.wav", "results.jsonl"]


def test_what_is_done_is_skipped_and_counted(run, record):
    record("in/a.wav"), record("in/b.wav", 1)
    run("in", "-o", "out")
    before = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.wav")}
    record("in/c.wav", 2)
    again = run("in", "-o", "out")
    assert "3 of 3 recordings done (2 by an earlier run; --overwrite processes them again)" in again.stdout
    assert "c.wav" in again.stdout and "a.wav" not in again.stdout.replace("\n", " ").split("recordings done")[0]
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.wav")}.items()
    assert [line["file"] for line in results_in("out")] == [
        str(Path("in", name)) for name in ("a.wav", "b.wav", "c.wav")
    ]

    whole = run("in", "-o", "out", "--overwrite")
    assert "3 of 3 recordings done:" in whole.stdout
    assert before.items().isdisjoint(
        {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.wav")}.items()
    )
    assert len(results_in("out")) == 3


@pytest.mark.parametrize("change", ["recording", "result", "model", "rate", "channel"])
def test_what_changed_is_done_again(run, record, change, tiny_checkpoint, tmp_path):
    record("in/a.wav"), record("in/b.wav", 1)
    run("in", "-o", "out")
    options, model, expected = [], tiny_checkpoint, 1
    if change == "recording":
        record("in/a.wav", 5, seconds=0.7)
    elif change == "result":
        Path("out/a.enhanced.wav").unlink()
    elif change == "model":
        model, expected = shutil.copytree(tiny_checkpoint, tmp_path / "other"), 2
        config = json.loads((model / "config.json").read_text())
        config["label2id"] = {"cross": 0, "sad": 1, "happy": 2, "neutral": 3}
        config["id2label"] = {str(index): label for label, index in config["label2id"].items()}
        (model / "config.json").write_text(json.dumps(config))
    else:
        options, expected = {"rate": (["--rate", 8_000], 2), "channel": (["--channel", "left"], 2)}[change]
    again = run("in", "-o", "out", *options, model=model)
    assert f"{2 - expected} by an earlier run" in again.stdout or expected == 2
    assert "2 of 2 recordings done" in again.stdout
    assert [line["file"] for line in results_in("out")] == [str(Path("in/a.wav")), str(Path("in/b.wav"))]
    assert files_in("out") == ["a.enhanced.wav", "b.enhanced.wav", "results.jsonl"]


def test_the_same_weights_elsewhere_are_the_same_model(run, record, tiny_checkpoint, tmp_path):
    record("a.wav")
    run("a.wav", "-o", "out")
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    os.utime(copy / "model.safetensors", (1, 1))
    assert "1 by an earlier run" in run("a.wav", "-o", "out", model=copy).stdout


def test_pictures_that_were_not_asked_for_before_are_drawn(run, record):
    pytest.importorskip("matplotlib")
    record("a.wav")
    run("a.wav", "-o", "out")
    assert "earlier run" not in run("a.wav", "-o", "out", "--plot").stdout
    assert Path("out/a.enhanced.png").exists()
    assert "1 by an earlier run" in run("a.wav", "-o", "out", "--plot").stdout


def test_same_names_from_other_folders_do_not_replace_each_other(run, record, tmp_path, monkeypatch):
    record("one/a.wav"), record("two/a.wav", 1), record("three/a.wav", 2)
    out = tmp_path / "out"
    run("one", "-o", out)
    first = (out / "a.enhanced.wav").read_bytes()
    run("two", "-o", out)
    monkeypatch.chdir(tmp_path / "three")
    run("a.wav", "-o", Path("../out"))
    monkeypatch.chdir(tmp_path / "one")
    assert "1 by an earlier run" in run("a.wav", "-o", Path("../out")).stdout
    assert (out / "a.enhanced.wav").read_bytes() == first
    written = [Path(line["enhanced"]).name for line in results_in(out)]
    assert sorted(written) == ["a-2.enhanced.wav", "a-3.enhanced.wav", "a.enhanced.wav"]


def test_a_file_that_no_line_tells_of_is_not_replaced(run, record):
    record("a.wav")
    Path("out").mkdir()
    Path("out/a.enhanced.wav").write_text("own")
    run("a.wav", "-o", "out")
    assert Path("out/a.enhanced.wav").read_text() == "own"
    assert results_in("out")[0]["enhanced"] == str(Path("out/a-2.enhanced.wav"))
    run("a.wav", "-o", "out")
    assert files_in("out") == ["a-2.enhanced.wav", "a.enhanced.wav", "results.jsonl"]


def test_a_failure_is_tried_again_and_its_line_replaced(run, record):
    Path("a.wav").write_bytes(b"this is no audio")
    assert run("a.wav", "-o", "out").exit_code == 1
    assert "error" in results_in("out")[0]
    record("a.wav")
    assert run("a.wav", "-o", "out").exit_code == 0
    (line,) = results_in("out")
    assert "error" not in line and line["enhanced"] == str(Path("out/a.enhanced.wav"))


def test_lines_of_earlier_versions_and_torn_lines_do_no_harm(run, record):
    record("a.wav")
    Path("out").mkdir()
    old = {
        "file": "old.wav",
        "seconds": 1.0,
        "emotion": "sad",
        "scores": {"sad": 1.0},
        "enhanced": "out/old.enhanced.wav",
    }
    Path("out/results.jsonl").write_text(json.dumps(old) + '\n[1]\n{"file": "torn.wav", "seco')
    assert run("a.wav", "-o", "out").exit_code == 0
    assert [line["file"] for line in results_in("out")] == ["old.wav", "a.wav"]
    assert results_in("out")[0] == old


def test_json_prints_what_the_folder_holds_and_nothing_else(run, record):
    record("in/a.wav"), record("in/b.wav", 1)
    Path("in/c.wav").write_bytes(b"this is no audio")
    run("in/a.wav", "-o", "out")
    result = run("in", "-o", "out", "--json")
    assert result.exit_code == 1
    assert [json.loads(line) for line in result.stdout.splitlines()] == results_in("out")
    assert "c.wav" in result.stderr
    assert run("in/a.wav", "-o", "out", "--quiet").stdout == ""


def test_records_tell_model_settings_level_and_clipping(run, tmp_path):
    time_axis = np.arange(16_000) / 16_000
    soundfile.write("sine.wav", 0.5 * np.sin(2 * np.pi * 440 * time_axis), 16_000, subtype="FLOAT")
    clipped = np.clip(2 * np.sin(2 * np.pi * 440 * time_axis), -1, 1)
    soundfile.write("clipped.wav", clipped, 16_000, subtype="FLOAT")
    soundfile.write("silence.wav", np.zeros(16_000), 16_000)
    run("sine.wav", "clipped.wav", "silence.wav", "-o", "out")
    sine, loud, silence = results_in("out")
    assert sine["level_dbfs"] == pytest.approx(-9.03, abs=0.01)  # 20 log10(0.5 / sqrt 2)
    assert (sine["clipped_ratio"], sine["channel"], sine["schema_version"]) == (0, 1, 1)
    assert loud["clipped_ratio"] == pytest.approx(2 / 3, abs=0.02)  # |sin x| > 1/2 for two thirds of a period
    assert silence["level_dbfs"] is None
    assert sine["model"].endswith("tiny_checkpoint0") and len(sine["settings_hash"]) == 16


# Channels ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stereo(speech_clip, tmp_path):
    """A stereo recording of two voices: (path, left, right)."""
    left, right = speech_clip(seed=1), 0.5 * speech_clip(seed=2)
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "left.wav", left, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "right.wav", right, 16_000, subtype="FLOAT")
    return tmp_path / "call.wav"


def test_each_channel_has_a_line_and_a_file(run, stereo, record):
    record("mono.wav")
    assert run("call.wav", "mono.wav", "-o", "out", "--channel", "each").exit_code == 0
    assert run("left.wav", "right.wav", "-o", "alone").exit_code == 0
    one, two, mono = results_in("out")
    assert [line["channel"] for line in (one, two, mono)] == [1, 2, 1]
    assert files_in("out") == ["call.ch1.enhanced.wav", "call.ch2.enhanced.wav", "mono.enhanced.wav", "results.jsonl"]
    for line, alone in zip((one, two), results_in("alone"), strict=True):
        assert line["scores"] == pytest.approx(alone["scores"], abs=1e-5)
        assert line["level_dbfs"] == alone["level_dbfs"]
        written, expected = (soundfile.read(each["enhanced"])[0] for each in (line, alone))
        np.testing.assert_allclose(written, expected, atol=2 / 2**15)
    again = run("call.wav", "mono.wav", "-o", "out", "--channel", "each")
    assert "2 of 2 recordings done (2 by an earlier run" in again.stdout
    Path("out/call.ch2.enhanced.wav").unlink()
    assert "(1 by an earlier run" in run("call.wav", "mono.wav", "-o", "out", "--channel", "each").stdout
    assert len(results_in("out")) == 3


@pytest.mark.parametrize(("choice", "number"), [("left", 1), ("right", 2), ("2", 2)])
def test_a_channel_can_be_chosen(run, stereo, choice, number):
    assert run("call.wav", "-o", "out", "--channel", choice).exit_code == 0
    run("left.wav", "right.wav", "-o", "alone")
    (line,) = results_in("out")
    assert line["channel"] == number
    assert line["scores"] == pytest.approx(results_in("alone")[number - 1]["scores"], abs=1e-5)


def test_choices_of_channels_do_not_replace_each_other(run, stereo):
    run("call.wav", "-o", "out")
    run("call.wav", "-o", "out", "--channel", "right")
    assert [line["channel"] for line in results_in("out")] == ["mix", 2]
    assert files_in("out") == ["call.ch2.enhanced.wav", "call.enhanced.wav", "results.jsonl"]


def test_a_channel_that_is_not_there_is_an_error(run, record, stereo):
    record("mono.wav")
    result = run("mono.wav", "call.wav", "-o", "out", "--channel", "right")
    assert result.exit_code == 1
    assert "Failed: mono.wav: has 1 channel; there is no channel 2" in result.stderr
    wrong = run("call.wav", "-o", "out", "--channel", "middle")
    assert wrong.exit_code == 2 and "expected one of mix, left, right, each, or a number from 1" in wrong.stderr
    assert run("call.wav", "-o", "out", "--channel", "0").exit_code == 2


def test_channels_that_cancel_are_not_mixed(run, speech_clip):
    clip = speech_clip(seed=3)
    soundfile.write("antiphase.wav", np.stack([0.9 * clip, -clip], 1), 16_000)
    result = run("antiphase.wav", "-o", "out")
    assert "Note: The channels of antiphase.wav cancel each other" in result.stderr
    (line,) = results_in("out")
    assert line["channel"] == 2 and "cancel" in line["warnings"][0]
    assert np.abs(soundfile.read(line["enhanced"])[0]).max() > 0.01
    assert "1 by an earlier run" in run("antiphase.wav", "-o", "out").stdout


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["声" * 72, "é" * 125, "x" * 251, "a" * 240])
def test_names_of_any_length_are_done(run, record, stem):
    record(f"in/{stem}.wav"), record(f"in/{stem[:-1]}.wav", 1)
    assert run("in", "-o", "out").exit_code == 0
    written = [Path(line["enhanced"]) for line in results_in("out")]
    assert len(set(written)) == 2 and all(path.exists() for path in written)
    assert "2 by an earlier run" in run("in", "-o", "out").stdout


def test_a_shortened_name_is_always_the_same_and_short_enough():
    long = "声" * 83
    assert target_for(Path("out"), long) == target_for(Path("out"), long) != target_for(Path("out"), long + "x")
    assert len(os.fsencode(target_for(Path("out"), long).name)) <= MAX_NAME_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_utf8_are_continued(run, record, tmp_path):
    os.rename(record("plain.wav"), tmp_path / os.fsdecode(b"caf\xe9.wav"))
    run(".", "-o", "out")
    assert "1 by an earlier run" in run(".", "-o", "out").stdout


# Pipes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_standard_input_is_a_recording_of_its_own_each_time(tiny_checkpoint, record, tmp_path):
    for name in ("a.wav", "b.wav"):
        content = record(name, seed=ord(name[0])).read_bytes()
        process = subprocess.run(
            [*COMMAND, "--model", str(tiny_checkpoint), "-", "-o", "out"], input=content, cwd=tmp_path, env=ENVIRONMENT
        )
        assert process.returncode == 0
    first, second = results_in(tmp_path / "out")
    assert (first["file"], first["enhanced"]) == ("-", str(Path("out/stdin.enhanced.wav")))
    assert second["enhanced"] == str(Path("out/stdin-2.enhanced.wav"))


@needs_pipes
def test_a_named_pipe_is_read(run, record, tmp_path):
    content = record("a.wav").read_bytes()
    os.mkfifo(tmp_path / "pipe.wav")
    writer = subprocess.Popen(["sh", "-c", "cat a.wav > pipe.wav"], cwd=tmp_path)
    assert run("pipe.wav", "-o", "out").exit_code == 0
    writer.wait(10)
    assert results_in("out")[0]["seconds"] == pytest.approx((len(content) - 44) / 32_000)


# What ends a run -----------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(speech_clip, tmp_path):
    """A folder of 60 recordings of a quarter of a second to two seconds."""
    (tmp_path / "in").mkdir()
    for index in range(60):
        clip = speech_clip(0.25 + 1.75 * (index % 10) / 9, seed=index)
        soundfile.write(tmp_path / "in" / f"{index:02d}.wav", clip, 16_000)
    return tmp_path


def check_complete(folder: Path) -> None:
    lines = results_in(folder / "out")
    assert [line["file"] for line in lines] == [str(Path("in", f"{index:02d}.wav")) for index in range(60)]
    assert {path.name for path in (folder / "out").iterdir()} == {
        "results.jsonl",
        ".sparse-merit.lock",
        *(f"{index:02d}.enhanced.wav" for index in range(60)),
    }
    for line in lines:
        assert soundfile.info(folder / line["enhanced"]).frames == soundfile.info(folder / line["file"]).frames


def kill_and_go_on(folder: Path, checkpoint: Path, lines: int, delay: float) -> None:
    """Kills a run some time after so many lines are there, runs it again, and checks what was done twice."""
    journal = folder / "out" / "results.jsonl"
    process = start(folder, checkpoint, "in", "-o", "out", "--batch-seconds", 2)
    wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= lines, process)
    time.sleep(delay)
    process.kill()
    process.communicate()
    kept = {line["file"]: (folder / line["enhanced"]) for line in results_in(folder / "out")}
    stamps = {name: path.stat().st_mtime_ns for name, path in kept.items() if path.exists()}
    assert len(kept) - len(stamps) <= 1, "only a file between its line and its name may be missing"

    again = start(folder, checkpoint, "in", "-o", "out", "--batch-seconds", 2)
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    if stamps:
        assert f"60 of 60 recordings done ({len(stamps)} by an earlier run" in output
    for name, stamp in stamps.items():
        assert kept[name].stat().st_mtime_ns == stamp
    check_complete(folder)


@pytest.mark.parametrize("lines", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_is_continued(corpus, tiny_checkpoint, lines):
    kill_and_go_on(corpus, tiny_checkpoint, lines, 0)


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_is_continued(corpus, tiny_checkpoint):
    generator = random.Random(0)
    for _ in range(20):
        shutil.rmtree(corpus / "out", ignore_errors=True)
        kill_and_go_on(corpus, tiny_checkpoint, generator.randrange(50), generator.uniform(0, 0.05))


@needs_pipes
def test_ctrl_c_keeps_what_is_done_and_ends_at_once(tiny_checkpoint, record, tmp_path):
    record("a.wav")
    os.mkfifo(tmp_path / "b.wav")
    process = start(tmp_path, tiny_checkpoint, "a.wav", "b.wav", "-o", "out")
    journal = tmp_path / "out" / "results.jsonl"
    wait_for(lambda: journal.exists() and journal.stat().st_size, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Stopped: interrupted. 1 of 2 recordings are done; run the command again to resume." in errors
    assert [line["file"] for line in results_in(tmp_path / "out")] == ["a.wav"]


@needs_pipes
def test_a_folder_is_for_one_run_at_a_time(run, tiny_checkpoint, record, tmp_path):
    record("a.wav")
    os.mkfifo(tmp_path / "b.wav")
    process = start(tmp_path, tiny_checkpoint, "b.wav", "-o", "out")
    try:
        wait_for(lambda: (tmp_path / "out" / ".sparse-merit.owner.json").exists(), process)
        refused = run("a.wav", "-o", "out")
        assert refused.exit_code == 2
        assert f"out is in use by {psutil.Process().username()} (process {process.pid} on " in refused.stderr
        assert "for 0 min)" in refused.stderr and refused.stderr.count("\n") == 1
    finally:
        process.kill()
        process.wait()
    assert run("a.wav", "-o", "out").exit_code == 0  # the lock goes with its process


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_stops_the_run_and_loses_nothing(run, corpus, small_disk):
    result = run("in", "-o", small_disk / "out", "--batch-seconds", 2)
    assert result.exit_code == 2
    lines = results_in(small_disk / "out")
    assert 2 < len(lines) < 40 and all("error" not in line for line in lines)
    assert "No space left on device" in result.stderr
    assert f"{len(lines)} of 60 recordings are done; run the command again to resume." in result.stderr
    assert len(list((small_disk / "out").glob("*.wav"))) == len(lines)
    assert not list((small_disk / "out").glob(".*.partial*"))
    for path in (small_disk / "out").glob("*.wav"):
        assert soundfile.info(path).frames > 0
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    again = run("in", "-o", small_disk / "out")
    assert f"60 of 60 recordings done ({len(lines)} by an earlier run" in again.stdout


def test_what_a_killed_run_left_unfinished_is_removed(run, record):
    record("a.wav")
    Path("out/deep").mkdir(parents=True)
    for name in (f".{'0' * 32}.partial.wav", f"deep/.{'a' * 32}.partial", ".own.partial"):
        Path("out", name).write_text("x")
    run("a.wav", "-o", "out")
    assert [path.name for path in Path("out").rglob(".*.partial*")] == [".own.partial"]


# The lines -----------------------------------------------------------------------------------------------------------


def test_lines_are_sorted_in_the_order_of_the_recordings(record, tmp_path):
    for index in range(4):
        record(f"in/{index}.wav", index)
    settings = Settings("model", {"weights": "x"})
    actual, _ = find_recordings([str(tmp_path / "in")], tmp_path / "out")
    with Results(tmp_path / "out", settings) as first:
        recordings = first.placed(actual)
        for place in (2, 1, 0):
            recording = recordings[place]
            first.add(recording, {"file": str(recording.path), "enhanced": None}, recording.target)
        first.sort(recordings)
        assert [record["file"][-5:] for record in first.records(recordings)] == ["0.wav", "1.wav", "2.wav"]
    with Results(tmp_path / "out", settings) as later:
        assert [later.is_done(recording) for recording in recordings] == [True, True, True, False]


def test_a_recording_that_changes_while_it_is_processed_is_not_done(record, tmp_path):
    path = record("a.wav")
    (recording,), _ = find_recordings([str(path)], tmp_path / "out")
    with Results(tmp_path / "out", Settings("model", {})) as results:
        record("a.wav", seconds=0.7)
        results.add(recording, {"file": str(path), "enhanced": None}, recording.target)
        assert results.is_done(recording)
        (later,), _ = find_recordings([str(path)], tmp_path / "out")
        assert not results.is_done(later)


def test_a_recording_of_no_file_is_never_done(tmp_path):
    with Results(tmp_path, Settings("model", {})) as results:
        (pipe,) = results.placed([Recording(Path("-"), tmp_path / "stdin.enhanced.wav")])
        results.add(pipe, {"file": "-", "enhanced": None}, pipe.target)
        assert not results.is_done(pipe)
        (other,) = results.placed([Recording(Path("-"), tmp_path / "stdin.enhanced.wav")])
        assert other.target.name == "stdin-2.enhanced.wav"
        assert Counter(record["file"] for record in results.records([pipe])) == {"-": 1}
