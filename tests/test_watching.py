# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit watch` processes each recording once, whenever it arrives and whatever ends the process."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from conftest import TINY
from forked import start

from modeling_sparse_merit.inference.watching import Inbox

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs processes that fork, and signals"
)
RATE = 16_000
OPTIONS = ("--model", TINY, "--device", "cpu", "--vad", "level")
WATCH = ("watch", "in", "-o", "out", "--interval", 0.1, *OPTIONS)
EVENTS = {"started": ["inbox", "output", "model"], "done": ["file", "seconds", "took_seconds"]}
EVENTS |= {"failed": ["file", "error"], "skipped": ["error"], "stopped": ["done", "failed"]}


@pytest.fixture
def record(speech_clip, tmp_path):
    """`record(name, seconds=0.3, seed=0)` writes a recording and returns its path."""

    def write(name, seconds=0.3, seed=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, speech_clip(seconds, seed=seed), RATE)
        return path

    return write


@pytest.fixture
def watch(tmp_path):
    """`watch(settle_seconds)` starts the command in `tmp_path`; what runs in the end is killed."""
    processes = []

    def run(settle_seconds=0.0):
        processes.append(start(tmp_path, "watch.log", *WATCH, "--settle-seconds", settle_seconds))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.join()


def lines(folder: Path) -> list[dict]:
    """The complete lines of `results.jsonl`."""
    path = folder / "out" / "results.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def events(folder: Path, name: str) -> list[dict]:
    """The events of a name in the log, checked to be short and structured."""
    log = [json.loads(line) for line in (folder / "watch.log").read_text().splitlines() if line.startswith("{")]
    for event in log:
        assert list(event)[2:] in (EVENTS[event["event"]], [*EVENTS[event["event"]], "error"])
    return [event for event in log if event["event"] == name]


def wait_for(is_so, process, seconds=600):
    """Waits until something is so, while a process runs."""
    end = time.monotonic() + seconds
    while not is_so():
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.01)


def wait_for_event(folder, process, name, count=1):
    wait_for(lambda: (folder / "watch.log").exists() and len(events(folder, name)) >= count, process)


def stop(process, number=signal.SIGTERM):
    """Stops a process by a signal; returns its exit code."""
    os.kill(process.pid, number)
    process.join(300)
    return process.exitcode


def check_complete(folder: Path, names: list[str]) -> None:
    """Each recording has one line and a complete enhanced file, and there is nothing else."""
    assert Counter(line["file"] for line in lines(folder)) == Counter(f"in/{name}" for name in names)
    for line in lines(folder):
        assert soundfile.info(folder / line["enhanced"]).frames == soundfile.info(folder / line["file"]).frames
    files = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file()}
    enhanced = {str(Path(name).with_suffix(".enhanced.wav")) for name in names}
    assert files == {"results.jsonl", ".sparse-merit.lock", *enhanced}


# Processes -----------------------------------------------------------------------------------------------------------


def kill_and_go_on(folder, record, watch, files, kills):
    """Kills the command at random moments; returns how many recordings were begun in vain."""
    names = [f"{index:03d}.wav" for index in range(files)]
    originals = {path: path.read_bytes() for path in (record(f"in/{name}", seed=int(name[:3])) for name in names)}
    generator, written = random.Random(0), {}
    for _ in range(kills):
        enough = len(lines(folder)) + generator.randrange(files // kills)
        process = watch()
        wait_for(lambda: len(lines(folder)) >= enough, process)  # noqa: B023
        time.sleep(generator.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        paths = (folder / "out").glob("*.enhanced.wav")
        written |= {path: path.stat().st_mtime_ns for path in paths if path not in written}
        assert all(soundfile.info(path).frames == 0.3 * RATE for path in written)
    process = watch()
    wait_for(lambda: len(list((folder / "out").glob("*.enhanced.wav"))) == files, process)
    assert stop(process) == 0
    check_complete(folder, names)
    assert {path: path.stat().st_mtime_ns for path in written} == written  # none was processed again
    assert {path: path.read_bytes() for path in originals} == originals
    assert len(written) < files


def test_each_recording_is_processed_once_though_the_process_is_killed(tmp_path, record, watch):
    kill_and_go_on(tmp_path, record, watch, files=12, kills=2)


@pytest.mark.slow
def test_each_recording_is_processed_once_though_the_process_is_killed_at_any_moment(tmp_path, record, watch):
    kill_and_go_on(tmp_path, record, watch, files=100, kills=20)


def test_uploads_replaced_and_damaged_files(tmp_path, record, watch):
    content = record("whole.wav").read_bytes()
    record("in/replaced.wav"), record("in/sub/b.wav", seed=1)
    (tmp_path / "in/stalled.wav").write_bytes(content[: len(content) // 2])
    (tmp_path / "in/upload.wav.part").write_bytes(content)
    (tmp_path / "in/secret.wav").symlink_to(tmp_path / "whole.wav")
    process = watch()
    wait_for_event(tmp_path, process, "done", 2)
    wait_for_event(tmp_path, process, "failed")
    (failed,) = events(tmp_path, "failed")
    assert failed["file"] == "in/stalled.wav" and "cut short" in failed["error"]
    (skipped,) = events(tmp_path, "skipped")
    assert "secret.wav is a link to a file outside the folder" in skipped["error"]

    with (tmp_path / "in/stalled.wav").open("ab") as file:  # the upload goes on
        file.write(content[len(content) // 2 :])
    record("longer.wav", seconds=0.5).replace(tmp_path / "in/replaced.wav")
    (tmp_path / "in/upload.wav.part").rename(tmp_path / "in/upload.wav")
    wait_for_event(tmp_path, process, "done", 5)
    assert stop(process) == 0
    assert len(events(tmp_path, "failed")) == len(events(tmp_path, "skipped")) == 1  # no second try, said once
    assert [(event["done"], event["failed"]) for event in events(tmp_path, "stopped")] == [(5, 1)]
    check_complete(tmp_path, ["replaced.wav", "stalled.wav", "sub/b.wav", "upload.wav"])
    assert (tmp_path / "in/upload.wav").read_bytes() == content


@pytest.mark.slow
def test_a_restart_goes_on_and_tries_failed_recordings_again(tmp_path, record, watch):
    names = ["a.wav", "b.wav"]
    for seed, name in enumerate(names):
        record(f"in/{name}", seed=seed)
    (tmp_path / "in/bad.wav").write_bytes(b"this is no audio")
    process = watch()
    wait_for_event(tmp_path, process, "failed")
    wait_for_event(tmp_path, process, "done", 2)
    assert stop(process, signal.SIGINT) == 0
    (tmp_path / "out/b.enhanced.wav").unlink()  # as if the process was killed before it was there
    kept = (tmp_path / "out/a.enhanced.wav").stat().st_mtime_ns

    process = watch()
    wait_for_event(tmp_path, process, "failed", 2)
    wait_for_event(tmp_path, process, "done", 3)
    for command in (WATCH, ("enhance", *WATCH[1:4], *OPTIONS)):
        other = start(tmp_path, "other.log", *command)
        other.join(300)
        assert other.exitcode == 2
    assert (tmp_path / "other.log").read_text().count("Error: out is in use by ") == 2
    assert stop(process) == 0
    assert [event["file"] for event in events(tmp_path, "done")][2:] == ["in/b.wav"]
    assert (tmp_path / "out/a.enhanced.wav").stat().st_mtime_ns == kept
    (failure,) = (line for line in lines(tmp_path) if "error" in line)
    assert failure["file"] == "in/bad.wav"
    (tmp_path / "in/bad.wav").unlink()
    other = start(tmp_path, "other.log", "enhance", *WATCH[1:4], *OPTIONS)
    other.join(300)
    assert "2 of 2 recordings done (2 by an earlier run" in (tmp_path / "other.log").read_text()


def test_a_signal_stops_after_the_current_recording(tmp_path, record, watch):
    for index in range(30):
        record(f"in/{index:02d}.wav", seconds=2, seed=index)
    process = watch()
    wait_for(lambda: lines(tmp_path), process)
    assert stop(process) == 0
    done = lines(tmp_path)
    assert 1 <= len(done) < 30
    check_complete(tmp_path, [line["file"].removeprefix("in/") for line in done])
    (stopped,) = events(tmp_path, "stopped")
    assert (stopped["done"], stopped["failed"]) == (len(done), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.slow
def test_a_full_disk_ends_the_command_and_loses_nothing(tmp_path, record, small_disk):
    for index in range(40):
        record(f"in/{index:02d}.wav", seed=index)  # 384 KB together
    command = ("watch", "in", "-o", small_disk / "out", *WATCH[4:], "--settle-seconds", 0)
    process = start(tmp_path, "watch.log", *command)
    process.join(600)
    assert process.exitcode == 2
    (stopped,) = events(tmp_path, "stopped")
    assert "No space left" in stopped["error"] and 1 <= stopped["done"] == len(lines(small_disk)) < 40
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    process = start(tmp_path, "watch.log", *command)
    wait_for_event(tmp_path, process, "done", 40)
    assert stop(process) == 0
    assert len(lines(small_disk)) == len(list((small_disk / "out").glob("*.enhanced.wav"))) == 40


def test_what_is_no_folder_is_refused(tmp_path):
    process = start(tmp_path, "watch.log", *WATCH)
    process.join(300)
    assert process.exitcode == 2
    assert (tmp_path / "watch.log").read_text().startswith("Error: in is no folder: give the folder in which ")


# The folder ----------------------------------------------------------------------------------------------------------


def names(arrivals) -> list[str]:
    return [recording.path.name for recording in arrivals.recordings]


def test_a_file_is_complete_when_it_has_not_changed_for_some_time(tmp_path):
    inbox, path = Inbox(tmp_path, tmp_path / "out", settle_seconds=0.2), tmp_path / "a.wav"
    for size in range(1, 4):
        path.write_bytes(bytes(size))
        assert names(inbox.look()) == []
        time.sleep(0.3)
    assert names(inbox.look()) == ["a.wav"]
    path.touch()  # the same size
    assert names(inbox.look()) == []
    time.sleep(0.3)
    assert names(inbox.look()) == ["a.wav"]


def test_recordings_come_in_the_order_of_their_arrival_until_they_are_taken(tmp_path):
    inbox = Inbox(tmp_path, tmp_path / "out", settle_seconds=0)
    for name in ("b.wav", "a.flac"):
        (tmp_path / name).write_bytes(b"1")
        inbox.look()
    first, second = inbox.look().recordings
    assert (first.path.name, first.target) == ("b.wav", tmp_path / "out" / "b.enhanced.wav")
    assert second.path.name == "a.flac"
    inbox.take(first)
    assert names(inbox.look()) == ["a.flac"]
    (tmp_path / "b.wav").unlink()
    assert names(inbox.look()) == ["a.flac"]
    (tmp_path / "b.wav").write_bytes(b"12")
    assert names(inbox.look()) == ["a.flac", "b.wav"]


def test_unfinished_uploads_hidden_files_and_results_are_left_out(tmp_path):
    left_out = ["a.wav.part", "a.wav.tmp", "a.wav.crdownload", ".a.wav.Xy12Zz", ".a.wav", "a.enhanced.wav", "a.txt"]
    for name in (*left_out, ".rsync-partial/a.wav", "sub/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "folder.wav").mkdir()
    (recording,) = Inbox(tmp_path, tmp_path / "out", settle_seconds=0).look().recordings
    assert recording.path == tmp_path / "sub" / "a.wav"
    assert recording.target == tmp_path / "out" / "sub" / "a.enhanced.wav"


def test_links_are_followed_within_the_folder_only(tmp_path):
    (tmp_path / "in/own").mkdir(parents=True)
    for name in ("in/own/a.wav", "other/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "in/link.wav").symlink_to("own/a.wav")
    (tmp_path / "in/b.wav").symlink_to(tmp_path / "other/b.wav")
    (tmp_path / "in/other").symlink_to(tmp_path / "other", target_is_directory=True)
    (tmp_path / "in/lost.wav").symlink_to("nothing")
    (tmp_path / "linked").symlink_to("in", target_is_directory=True)
    arrivals = Inbox(tmp_path / "linked", tmp_path / "out", settle_seconds=0).look()
    assert names(arrivals) == ["link.wav", "a.wav"]
    (problem,) = arrivals.problems
    assert problem.startswith(str(tmp_path / "linked/b.wav"))


def test_a_share_that_is_gone_for_a_while_is_a_problem_and_changes_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "in" / name).write_bytes(b"1")
    inbox = Inbox(tmp_path / "in", tmp_path / "out", settle_seconds=0)
    first, second = inbox.look().recordings
    inbox.take(first)
    (tmp_path / "in").rename(tmp_path / "gone")
    assert not second.is_unchanged
    arrivals = inbox.look()
    assert arrivals.recordings == [] and len(arrivals.problems) == 1
    (tmp_path / "gone").rename(tmp_path / "in")
    assert inbox.look().recordings == [second] and second.is_unchanged
