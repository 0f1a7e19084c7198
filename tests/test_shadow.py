# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Shadow mode of `sparse-merit serve`: a real candidate in a process of its own, with real faults."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from conftest import TINY, make_speech
from services import clip, running, wait_until, wav
from test_shadow_report import comparison
from typer.testing import CliRunner

from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.models.sparse_merit.streaming import Detector, detect_by_level
from modeling_sparse_merit.service import candidate
from modeling_sparse_merit.service.candidate import Candidate
from modeling_sparse_merit.service.candidate_process import ProcessLimits
from modeling_sparse_merit.service.messages import Analysed, Description
from modeling_sparse_merit.service.recording import Recorder
from modeling_sparse_merit.service.shadow import ShadowOptions

FAULT = "SPARSE_MERIT_TEST_FAULT"
"""Name of a file with the fault of the candidate."""
FAULTS = {"prints": "ok", "raises": "failed", "lies": "failed", "hangs": "timeout", "is killed": "died"}
FAULTS |= {"eats memory": "memory"}
QUICK = ("raises", "lies", "is killed")
LIE = '{"status": 200, "records": [], "stages": {"new": 1}, "audio_seconds": NaN}'
recordings = itertools.count()
OFF = {"batch_seconds": 0.0}


def faulty_detector() -> Detector:
    """Creates the detector of a recording in the candidate. The first recording is that with which it warms up."""
    fault = Path(os.environ[FAULT]).read_text() if next(recordings) else ""
    if fault == "raises":
        raise RuntimeError("a secret")
    if fault == "hangs":
        if os.fork() == 0:  # another process holds the connection
            os.setsid()
            time.sleep(20)
            os._exit(0)
        time.sleep(1_000)
    candidate.json = SimpleNamespace(dumps=lambda message: LIE, loads=json.loads) if fault == "lies" else json
    if fault == "eats memory":
        hoard = []
        while True:
            hoard.append(np.ones(4_000_000))
            time.sleep(0.01)
    if fault == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "prints":
        print("noise " * 1_000, flush=True)
    return detect_by_level()


@pytest.fixture(scope="module")
def pipe():
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu")


def shadow(service, outcome: str) -> float:
    return service.metric(f'sparse_merit_requests_total{{outcome="{outcome}",role="shadow"}}')


def until(condition) -> None:
    wait_until(condition, seconds=300)


def wait_until_up(service) -> None:
    until(lambda: service.metric("sparse_merit_shadow_up") == 1)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "shadow.jsonl").read_text().splitlines()]


def without_id(body: bytes) -> bytes:
    return re.sub(rb'"id": "\w+"', b"", body)


@pytest.mark.parametrize("names", [QUICK, pytest.param(tuple(FAULTS), marks=pytest.mark.slow)], ids=["quick", "all"])
def test_faults_of_the_candidate_do_not_reach_callers(pipe, tmp_path, monkeypatch, capfd, names):
    faults = {name: FAULTS[name] for name in names}
    fault, record = tmp_path / "fault", tmp_path / "record"
    fault.write_text("")
    monkeypatch.setenv(FAULT, str(fault))
    with running(pipe, **OFF) as alone:
        expected = without_id(alone.analyze(clip(), "?audio=wav&segments=true").body)
    faulty = Candidate(TINY, niceness=0, device="cpu", detector=("level", faulty_detector))
    options = ShadowOptions(ProcessLimits(seconds=5, megabytes=1_200))
    with running(pipe, candidate=faulty, shadow=options, record=record, **OFF) as service:

        def analyze(outcome: str) -> None:
            before = shadow(service, outcome)
            response = service.analyze(clip(), "?audio=wav&segments=true")
            assert without_id(response.body) == expected
            until(lambda: shadow(service, outcome) == before + 1)

        wait_until_up(service)
        for name, outcome in faults.items():
            fault.write_text(name)
            analyze(outcome)
            fault.write_text("")
            wait_until_up(service)
            analyze("ok")
        until(lambda: len(lines_of(record)) == 2 * len(faults))
        assert [line["shadow"]["outcome"] for line in lines_of(record)[::2]] == list(faults.values())
        restarts = [
            service.metric(f'sparse_merit_shadow_restarts_total{{reason="{reason}"}}')
            for reason in ("timeout", "died", "memory")
        ]
        assert restarts == [int(reason in faults.values()) for reason in ("timeout", "died", "memory")]
        assert service.outcomes("ok") == 2 * len(faults)
        agree = len(faults) + list(faults.values()).count("ok")
        assert service.metric('sparse_merit_shadow_comparisons_total{result="agree"}') == agree
        assert b"new" not in service.request("GET", "/metrics").body
    output = capfd.readouterr()
    assert "noise" not in output.out and "secret" not in output.out


@pytest.mark.slow
def test_a_full_queue_drops_copies(pipe, tmp_path, monkeypatch):
    (tmp_path / "fault").write_text("hangs")
    monkeypatch.setenv(FAULT, str(tmp_path / "fault"))
    faulty = Candidate(TINY, niceness=0, device="cpu", detector=("level", faulty_detector))
    with running(pipe, candidate=faulty, shadow=ShadowOptions(ProcessLimits(seconds=60), queue=2), **OFF) as service:
        wait_until_up(service)
        dropped = 'sparse_merit_shadow_dropped_total{reason="queue"}'
        for _ in range(5):
            assert service.analyze(clip()).status == 200
        until(lambda: service.metric(dropped) >= 2)
        (child,) = [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]
        child.kill()  # otherwise the end of the service waits for the copy in hand


def test_results_and_similarity_are_recorded_without_audio(pipe, tmp_path):
    record = tmp_path / "record"
    two = wav(np.stack([make_speech(2.0, seed=0), make_speech(2.0, seed=1)], axis=1))
    with running(pipe, candidate=Candidate(TINY, niceness=0, device="cpu"), record=record, **OFF) as service:
        wait_until_up(service)
        responses = [service.analyze(clip()), service.analyze(two, "?channel=each"), service.analyze(clip(seed=3))]
        assert service.analyze(b"no audio").status == 400
        until(lambda: shadow(service, "ok") == 3)
        correction = {"id": responses[0].json["id"], "emotion": "sad"}
        assert service.request("POST", "/v1/feedback", json.dumps(correction).encode()).status == 204
    lines = lines_of(record)
    assert [line["id"] for line in lines] == [response.json["id"] for response in responses]
    for line, response in zip(lines, responses, strict=True):
        results = response.json["results"]
        for side in ("primary", "shadow"):
            assert [each["scores"] for each in line[side]["results"]] == [each["scores"] for each in results]
        assert all(value > 60 for value in line["si_sdr"]) and len(line["si_sdr"]) == len(results)
    assert {path.name for path in record.iterdir()} <= {"shadow.jsonl", "feedback.jsonl", ".shadow.lock"}
    report = CliRunner().invoke(app, ["shadow-report", str(record), "--require", "agreement>=1,recordings>=4"])
    assert report.exit_code == 0, report.output
    assert "4 recordings, 100.0 % equal emotions" in report.output


def test_without_a_primary_model_recordings_are_accepted(tmp_path):
    record = tmp_path / "record"
    options = {"candidate": Candidate(TINY, niceness=0, device="cpu"), "record": record, "records_audio": True}
    with running(None, **options) as service:
        response = service.analyze(clip(), "?audio=wav")
        assert response.status == 202 and list(response.json) == ["id"]
        assert service.analyze(b"").status == 400
        assert service.analyze(b"no audio").status == 202  # it is decoded later
        until(lambda: shadow(service, "ok") == 1 and shadow(service, "invalid") == 1)
        named = response.json["id"]
        correction = json.dumps({"id": named, "emotion": "sad"}).encode()
        assert service.request("POST", "/v1/feedback", correction).status == 204
    first, second = lines_of(record)
    assert first["primary"] is None and first["shadow"]["results"][0]["scores"]
    assert second["shadow"] == {"outcome": "invalid", "ms": 0.0, "results": []}
    assert (record / "audio" / f"{named}.wav").read_bytes() == clip()


def test_a_sample_is_copied(pipe, tmp_path):
    options = {"candidate": Candidate(TINY, niceness=0, device="cpu"), "shadow": ShadowOptions(sample=0.0)}
    with running(pipe, record=tmp_path / "record", **options, **OFF) as service:
        assert service.analyze(clip()).status == 200
    assert lines_of(tmp_path / "record") == []


def test_a_broken_candidate_leaves_the_service_ready(pipe, tmp_path, capfd):
    with running(pipe, candidate=Candidate(tmp_path / "nothing", niceness=0, device="cpu"), **OFF) as service:
        until(lambda: service.metric('sparse_merit_shadow_restarts_total{reason="died"}') >= 1)
        assert service.analyze(clip()).status == 200
        assert service.metric("sparse_merit_shadow_up") == 0
    capfd.readouterr()


def test_the_candidate_ends_with_a_killed_service(tmp_path):
    command = [sys.executable, "-m", "modeling_sparse_merit.cli", "serve", "--model", str(TINY), "--port", "18231"]
    with subprocess.Popen(
        [*command, "--shadow", str(TINY)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as service:
        children: list[psutil.Process] = []

        def has_candidate() -> bool:
            children_now = psutil.Process(service.pid).children()
            children[:] = [child for child in children_now if "spawn_main" in " ".join(child.cmdline())]
            return bool(children)

        until(has_candidate)
        service.kill()
    until(lambda: not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE)


RESULT = {"channel": 1, "emotion": "sad", "scores": {"sad": 1.0}, "level_dbfs": -20.0, "clipped_ratio": 0.0}
ANALYSED = {
    "status": 200,
    "stages": {"decode": 0.1, "model": 0.2, "total": 0.3},
    "records": [RESULT],
    "audio_seconds": 2.0,
    "expert_frames": {"emotion": [1.0, 2.0]},
    "si_sdr": [None],
}
DESCRIPTION = Description(model="m", settings_hash="h", labels=["sad"], experts={"emotion": 2})


def test_a_message_of_the_candidate_is_accepted():
    assert Analysed.model_validate_json(json.dumps(ANALYSED)).fits(DESCRIPTION)


@pytest.mark.parametrize(
    "change",
    [
        {"stages": {"decode": 0.1, "model": 0.2, "total": 0.3, "new": 1}},
        {"records": []},
        {"records": [{**RESULT, "emotion": "new"}]},
        {"records": [{**RESULT, "emotion": None, "reason": "new"}]},
        {"records": [{**RESULT, "channel": []}]},
        {"records": [{**RESULT, "scores": {"sad": 2.0}}]},
        {"records": [{**RESULT, "level_dbfs": float("nan")}]},
        {"audio_seconds": 0},
        {"audio_seconds": "2"},
        {"expert_frames": {"emotion": [1.0]}},
        {"expert_frames": {"new": [1.0, 2.0]}},
        {"si_sdr": 5},
        {"status": 500},
        {"more": 1},
    ],
)
def test_other_messages_of_the_candidate_are_refused(change):
    try:
        assert not Analysed.model_validate_json(json.dumps({**ANALYSED, **change})).fits(DESCRIPTION)
    except ValueError:
        pass


def test_a_line_that_a_power_failure_left_incomplete_is_removed(tmp_path):
    for content in (b'{"id": "1"}\n{"time": "20', b'{"time": "20', b""):
        (tmp_path / "shadow.jsonl").write_bytes(content)
        recorder = Recorder(tmp_path)
        recorder.add(comparison("2"))
        recorder.close()
        ids = [json.loads(line)["id"] for line in (tmp_path / "shadow.jsonl").read_text().splitlines()]
        assert ids == (["1", "2"] if b"1" in content else ["2"])


def test_a_full_file_is_followed_by_another(tmp_path):
    recorder = Recorder(tmp_path, megabytes=0.0001)
    for number in range(3):
        recorder.add(comparison(str(number)))
    with pytest.raises(OSError, match="Another service records"):
        Recorder(tmp_path)
    recorder.close()
    names = ("shadow-1.jsonl", "shadow-2.jsonl", "shadow.jsonl")
    assert [json.loads((tmp_path / name).read_text())["id"] for name in names] == ["0", "1", "2"]
    (tmp_path / "shadow-1.jsonl").unlink()  # as somebody may do who needs no old lines
    recorder = Recorder(tmp_path, megabytes=0.0001)
    recorder.add(comparison("3"))
    recorder.close()
    assert json.loads((tmp_path / "shadow-3.jsonl").read_text())["id"] == "2"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--shadow", "tiny", "--shadow-only"], "leave --shadow out"),
        (["--record", "folder"], "give --shadow CANDIDATE"),
        (["--shadow", "tiny", "--record-audio"], "--record"),
        (["--shadow", "nowhere"], "nowhere"),
        (["--reference", "nowhere.json"], "nowhere.json"),
    ],
)
def test_invalid_options_end_before_the_start(options, message):
    result = CliRunner().invoke(app, ["serve", "--model", str(TINY), *options])
    assert result.exit_code == 2 and message in result.output
