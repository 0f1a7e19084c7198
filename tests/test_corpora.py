# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Results of a corpus in a folder or a store: complete, once, and resumable."""

import json
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_sparse_merit.cli.watch import CorpusWatcher, Log, StopSignal
from modeling_sparse_merit.inference.batching import enhance_recordings
from modeling_sparse_merit.inference.corpora import (
    CorpusResults,
    CorpusWorker,
    filesystem_of,
    find_sources,
    inside,
    load_model,
)
from modeling_sparse_merit.inference.files import find_recordings
from modeling_sparse_merit.inference.results import Results, Settings
from modeling_sparse_merit.inference.watching import CorpusInbox


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny", device="cpu", segments="csv")


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path):
    """`place(name)` is a path, or a URL of a store in memory."""
    root = str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    return lambda name: f"{root}/{name}"


@pytest.fixture
def store(speech_clip, place, tmp_path):
    """`store(name, seed=0)` stores a recording."""

    def write(name, seed=0, seconds=0.3):
        local = tmp_path / "recording.wav"
        soundfile.write(local, speech_clip(seconds, seed=seed), 16_000)
        filesystem, path = filesystem_of(place(name))
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        filesystem.put_file(str(local), path)

    return write


def files(target: str) -> list[str]:
    filesystem, folder = filesystem_of(target)
    filesystem.invalidate_cache()
    names = (name.removeprefix(f"{folder}/") for name in filesystem.find(folder))
    return sorted(name for name in names if not name.startswith("results.parquet/"))


def lines(target: str) -> list[dict]:
    filesystem, folder = filesystem_of(target)
    return [json.loads(line) for line in filesystem.cat_file(f"{folder}/results.jsonl").splitlines()]


def process(corpus: CorpusResults, loaded, sources, name=None) -> list[dict]:
    _, treatment, settings = loaded
    left = corpus.plan(sources, settings, treatment.further_files)
    return CorpusWorker(corpus, loaded).process(left, name) if left else []


def test_recordings_are_found_and_named_within_the_target(store, place):
    for name in ("in/a.wav", "in/sub/a.wav", "in/.hidden/a.wav", "in/.b.wav", "in/a.enhanced.wav", "in/a.txt"):
        store(name) if name.endswith(".wav") else filesystem_of(place(name))[0].touch(filesystem_of(place(name))[1])
    sources = find_sources([place("in"), place("in/*.wav"), place("in/sub/a.wav")])
    assert [source.base for source in sources] == ["a.enhanced.wav", "sub/a.enhanced.wav"]
    assert all(source.is_unchanged for source in sources)
    with pytest.raises(FileNotFoundError, match="No recording found in .*/none: give audio files, folders or globs"):
        find_sources([place("none")])
    with pytest.raises(ValueError, match="Give a folder, or a URL such as s3://"):
        find_sources(["nothing://a"])


@pytest.mark.parametrize("name", ["../../a", "/a", "a/../../b", "..\\..\\a", "..", "", "./\0a"])
def test_names_stay_within_the_target(name, tmp_path):
    assert (tmp_path / inside(name)).resolve().is_relative_to(tmp_path.resolve()) and inside(name)


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.wav").write_bytes(b"1")
    (tmp_path / "in/link.wav").symlink_to(tmp_path / "secret.wav")
    with pytest.raises(FileNotFoundError, match="link.wav is a link to a file outside the folder"):
        find_sources([str(tmp_path / "in")])


def test_results_are_those_of_enhance(store, place, loaded, tmp_path):
    for seed in range(4):
        store(f"in/{'sub/' * (seed % 2)}{seed}.wav", seed)
    filesystem, path = filesystem_of(place("in/bad.wav"))
    filesystem.pipe_file(path, b"no audio")
    corpus = CorpusResults(place("out"))
    process(corpus, loaded, find_sources([place("in")]))
    corpus.finish()

    filesystem.get(filesystem_of(place("in"))[1], str(tmp_path / "local"), recursive=True)
    (tmp_path / "plain").mkdir()
    pipe, treatment, settings = loaded
    recordings, _ = find_recordings([str(tmp_path / "local")], tmp_path / "plain")
    with Results(tmp_path / "plain", settings) as results:
        list(enhance_recordings(pipe, recordings, results=results, **vars(treatment)))
        expected = {Path(line["file"]).name: line for line in results.records(recordings)}
    assert len(lines(place("out"))) == 5
    for line in lines(place("out")):
        plain = expected[Path(line["file"]).name]
        assert line.keys() == plain.keys()
        if "error" in line:
            assert line["file"].endswith("bad.wav") and line["file"] in line["error"]
            continue
        assert line["scores"] == pytest.approx(plain["scores"], abs=1e-4)
        assert {name: line[name] for name in ("seconds", "emotion")} == {
            name: plain[name] for name in ("seconds", "emotion")
        }
        enhanced_filesystem, enhanced = filesystem_of(line["enhanced"])
        enhanced_filesystem.get_file(enhanced, str(tmp_path / "enhanced.wav"))
        one, other = (
            soundfile.read(file, dtype="int16")[0] for file in (tmp_path / "enhanced.wav", plain["enhanced"])
        )
        assert np.abs(one.astype(int) - other).max() <= 1  # batches differ
    assert "sub/1.segments.csv" in files(place("out"))


def test_a_second_run_does_what_is_left_failed_changed_or_lost(store, place, loaded):
    for seed in range(3):
        store(f"in/{seed}.wav", seed)
    store("in/sub/0.wav", 5)
    filesystem, path = filesystem_of(place("in/bad.wav"))
    filesystem.pipe_file(path, b"no audio")
    corpus, sources = CorpusResults(place("out")), find_sources([place("in")])
    assert len(process(corpus, loaded, sources)) == 5
    assert [row["path"] for row in process(corpus, loaded, sources)] == [sources[3].path]  # a failure is tried again
    store("in/bad.wav", 6)
    store("in/1.wav", 7, seconds=0.5)
    filesystem.rm_file(filesystem_of(place("out/2.enhanced.wav"))[1])
    done = process(CorpusResults(place("out")), loaded, find_sources([place("in")]))
    assert [Path(row["path"]).name for row in done] == ["1.wav", "2.wav", "bad.wav"]
    corpus.finish()
    corpus.finish()
    assert [line["seconds"] for line in lines(place("out")) if line["file"].endswith("1.wav")] == [0.5]
    assert len(lines(place("out"))) == 5 and len(corpus.manifest()) == 5
    settings = Settings("other", {})
    assert len(corpus.plan(find_sources([place("in")]), settings)) == 5
    assert corpus.plan(find_sources([place("in")]), loaded[2]) == []
    assert len(corpus.plan(find_sources([place("in")]), loaded[2], overwrite=True)) == 5


def test_a_part_that_is_done_is_not_done_again(store, place, loaded):
    store("in/a.wav")
    corpus = CorpusResults(place("out"))
    (source,) = corpus.plan(find_sources([place("in")]), loaded[2])
    rows = CorpusWorker(corpus, loaded).process([source], "part")
    assert CorpusWorker(corpus, loaded).process([source], "part") == rows  # as if a node died after it was stored


def test_names_are_kept_by_a_run_that_was_killed_before_it_had_results(store, place, loaded):
    store("in/one/a.wav"), store("in/two/a.wav", 1)
    sources = find_sources([place("in/one"), place("in/two")])
    first = CorpusResults(place("out")).plan(sources, loaded[2])
    assert [source.base for source in first] == ["a.enhanced.wav", "a-2.enhanced.wav"]
    assert CorpusResults(place("out")).plan(sources[::-1], loaded[2]) == first[::-1]


def test_a_recording_that_cannot_be_fetched_is_a_failure(place, store, loaded):
    store("in/a.wav"), store("in/b.wav", 1)
    sources = find_sources([place("in")])
    filesystem, path = filesystem_of(place("in/b.wav"))
    filesystem.rm_file(path)
    rows = process(CorpusResults(place("out")), loaded, sources)
    assert [row["error"] is None for row in rows] == [True, False]


def test_results_of_both_kinds_do_not_mix(tmp_path, place, loaded, store):
    settings = Settings("model", {})
    with Results(tmp_path / "plain", settings):
        pass
    with pytest.raises(FileExistsError, match="holds results of a run without --ray and without URLs"):
        CorpusResults(tmp_path / "plain")
    store("in/a.wav")
    CorpusResults(tmp_path / "corpus").plan(find_sources([place("in")]), settings)
    with (
        pytest.raises(FileExistsError, match="holds results of a run with --ray or URLs"),
        Results(tmp_path / "corpus", settings),
    ):
        pass


def test_a_store_is_watched(store, place, loaded, capsys):
    store("in/a.wav"), store("in/b.wav", 1)
    with StopSignal() as stop:
        inbox, watcher = (
            CorpusInbox(place("in"), settle_seconds=0),
            CorpusWatcher(CorpusResults(place("out")), loaded, Log(False)),
        )
        running = threading.Thread(target=watcher.run, args=(inbox, 0.05, stop))
        running.start()
        wait_for(lambda: watcher.done == 2)
        store("in/sub/c.wav", 2)
        filesystem, path = filesystem_of(place("in/bad.wav"))
        filesystem.pipe_file(path, b"no audio")
        wait_for(lambda: (watcher.done, watcher.failed) == (3, 1))
        stop.is_set = True
        running.join(60)
    assert [line["file"].rpartition("/in/")[2] for line in lines(place("out"))] == [
        "a.wav",
        "b.wav",
        "bad.wav",
        "sub/c.wav",
    ]
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events].count("done") == 3

    later = CorpusWatcher(CorpusResults(place("out")), loaded, Log(True))
    again = CorpusInbox(place("in"), settle_seconds=0)
    with StopSignal() as stop:
        later._process(again, again.look().recordings, stop)
    assert (later.done, later.failed) == (0, 1)  # what failed is tried again


def test_a_store_that_cannot_be_read_is_a_problem(monkeypatch):
    inbox = CorpusInbox("nothing://calls", settle_seconds=0)
    (problem,) = inbox.look().problems
    assert problem.startswith("nothing://calls cannot be read")


def wait_for(is_so, seconds=60):
    import time

    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
