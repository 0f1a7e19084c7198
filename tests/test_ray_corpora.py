# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Each recording of a corpus has its results once, on a cluster and at URLs, whatever is killed."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from modeling_sparse_merit.cli import app

pytest.importorskip("ray")
RECORDINGS = 500
TESTS = Path(__file__).parent


@pytest.fixture
def environment(monkeypatch):
    """Ray starts slowly on a busy machine."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]))
    variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    variables |= {"RAY_raylet_start_wait_time_s": "180", "RAY_worker_register_timeout_seconds": "180"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def corpus(speech_clip, tmp_path):
    import soundfile

    (tmp_path / "in").mkdir()
    for index in range(RECORDINGS):
        clip = speech_clip(0.2 + 0.01 * (index % 30), seed=index)
        soundfile.write(tmp_path / "in" / f"{index:03d}.wav", clip, 16_000)
    return tmp_path


@pytest.fixture
def places(request, corpus, monkeypatch):
    """The corpus and its target: folders, or in an S3 server on this machine."""
    if request.param == "folder":
        yield str(corpus / "in"), str(corpus / "out")
        return
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    s3fs = pytest.importorskip("s3fs")
    server.start()
    host, port = server.get_host_and_port()
    names = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    for name, value in (names | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("calls")
    s3fs.S3FileSystem().put(str(corpus / "in"), "calls/in", recursive=True)
    yield "s3://calls/in", "s3://calls/out"
    server.stop()


def start(corpus: Path, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, str(TESTS / "ray_cluster.py"), *map(str, arguments)]
    with (corpus / "cluster.log").open("w") as log:
        return subprocess.Popen(command, cwd=corpus, stdout=log, stderr=subprocess.STDOUT)


def log(corpus: Path) -> str:
    return (corpus / "cluster.log").read_text()


def kill_all(process: subprocess.Popen) -> None:
    everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in everything:
        one.kill()
    psutil.wait_procs(everything)


@pytest.mark.slow
@pytest.mark.parametrize("places", ["folder", "s3"], indirect=True)
def test_a_node_is_killed_then_the_cluster_and_each_recording_has_one_result(places, corpus, environment):
    from modeling_sparse_merit.inference.corpora import CorpusResults, filesystem_of

    source, target = places
    process = start(corpus, source, target, 20)
    end = time.monotonic() + 600
    while " s" not in log(corpus).partition("node killed")[2]:  # the other node goes on
        assert process.poll() is None and time.monotonic() < end, log(corpus)
        time.sleep(0.01)
    kill_all(process)
    filesystem, folder = filesystem_of(target)
    filesystem.invalidate_cache()
    kept = {row.path: row.finished_ns for row in CorpusResults(target).manifest().itertuples() if row.finished_ns}
    assert 0 < len(kept) < RECORDINGS
    assert not filesystem.exists(f"{folder}/results.jsonl")

    again = start(corpus, source, target, 20)
    assert again.wait(900) == 0, log(corpus)
    assert "node killed" in log(corpus) and f"{RECORDINGS} rows" in log(corpus)
    print(f"{len(kept)} of {RECORDINGS} were done when everything was killed")
    manifest = CorpusResults(target).manifest()
    names = {f"{index:03d}" for index in range(RECORDINGS)}
    assert Counter(Path(path).stem for path in manifest["path"]) == dict.fromkeys(names, 1)
    assert {path: manifest.set_index("path")["finished_ns"][path] for path in kept} == kept  # none was done again
    filesystem.invalidate_cache()
    lines = [json.loads(line) for line in filesystem.cat_file(f"{folder}/results.jsonl").splitlines()]
    assert Counter(Path(line["file"]).stem for line in lines) == dict.fromkeys(names, 1)
    stored = [Path(path).name for path in filesystem.find(folder) if not path.endswith(".parquet")]
    assert sorted(stored) == sorted([*(f"{name}.enhanced.wav" for name in names), "results.jsonl"])
    assert len(filesystem.find(f"{folder}/results.parquet")) == 1


@pytest.mark.slow
def test_the_command_uses_actors_and_resumes(speech_clip, tmp_path, environment, monkeypatch):
    import soundfile

    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for seed in range(3):
        soundfile.write(f"in/{seed}.wav", speech_clip(0.3, seed=seed), 16_000)
    Path("in/bad.wav").write_text("no audio")
    command = ["enhance", "in", "-o", "out", "--ray", "local", "--model", "tiny", "--device", "cpu", "--vad", "level"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 1 and "3 of 4 recordings done: out/results.jsonl" in first.stdout, first.output
    assert "bad.wav: Cannot decode" in first.stderr and "/tmp/tmp" not in first.stderr.replace(str(tmp_path), "")
    Path("in/bad.wav").unlink()
    second = CliRunner().invoke(app, command)
    assert second.exit_code == 0 and "3 of 3 recordings done (3 by an earlier run" in second.stdout


@pytest.mark.parametrize("arguments", [["s3://calls/in"], ["in", "-o", "s3://calls/out"]])
def test_urls_need_ray(arguments):
    result = CliRunner().invoke(app, ["enhance", *arguments])
    assert result.exit_code == 2 and "is a URL, which needs --ray: add --ray local" in result.stderr


def test_a_dataset_has_paths_and_names_that_stay_within_the_target(tmp_path):
    import pyarrow

    from modeling_sparse_merit.inference.ray_corpora import _described, _from_table, _parts

    (tmp_path / "a.wav").write_bytes(b"1234")
    rows = pyarrow.table({"path": [str(tmp_path / "a.wav")] * 2, "name": ["../../etc/x", "/sub\\..\\y"]})
    sources = _from_table(_described(rows))
    assert [source.base for source in sources] == ["etc/x.enhanced.wav", "sub/y.enhanced.wav"]
    assert sources[0].stamp[0] == 4
    with pytest.raises(OSError):
        _described(pyarrow.table({"path": [str(tmp_path / "b.wav")]}))
    parts = _parts(sources * 100, actors=2)
    assert [len(part) for part in parts] == [25] * 8  # at least four for each actor
    assert len({name for part in parts for name in part["part"].to_pylist()}) == 8
