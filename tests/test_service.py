# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The HTTP service of `sparse-merit serve`, with a real server on loopback and the checkpoint `tiny`."""

import asyncio
import base64
import email
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, TINY, make_speech
from services import RATE, Service, clip, running, wait_until, wav
from starlette.responses import Response as PlainResponse
from typer.testing import CliRunner

from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.inference.batching import enhance_recordings
from modeling_sparse_merit.inference.files import Recording
from modeling_sparse_merit.inference.results import settings_of
from modeling_sparse_merit.inference.tracks import Treatment
from modeling_sparse_merit.models.sparse_merit.streaming import WindowModel
from modeling_sparse_merit.service import server
from modeling_sparse_merit.service.authentication import Token, check_host
from modeling_sparse_merit.service.gate import Gate
from modeling_sparse_merit.service.limits import Limits
from modeling_sparse_merit.service.logs import JsonFormatter, start_logging

TOKEN = "0123456789abcdef-secret"
DEMO = ROOT / "modeling_sparse_merit" / "demo"
OFF = {"batch_seconds": 0.0}


@pytest.fixture(scope="module")
def pipe():
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu")


@pytest.fixture(scope="module")
def service(pipe, tmp_path_factory):
    """A service without batching that stores feedback."""
    path = tmp_path_factory.mktemp("feedback") / "feedback.jsonl"
    with running(pipe, feedback_file=path, **OFF) as started:
        started.feedback_file = path
        yield started


def enhanced_by_command(pipe, content: bytes, folder: Path, **treatment) -> list[dict]:
    """Records of `sparse-merit enhance`, with the bytes of the enhanced files."""
    path = folder / "recording.wav"
    path.write_bytes(content)
    recording = Recording(path, folder / "recording.enhanced.wav")
    records = list(enhance_recordings(pipe, [recording], batch_seconds=1.0, **treatment))  # one window in a batch
    return [{**record, "enhanced": Path(record["enhanced"]).read_bytes()} for record in records]


# Results -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_results_equal_those_of_the_command(service, pipe, tmp_path, rate):
    content = wav(make_speech(13.0, rate), rate)
    (expected,) = enhanced_by_command(pipe, content, tmp_path)
    response = service.analyze(content, "?segments=true&audio=wav").json
    (result,) = response["results"]
    assert base64.b64decode(result.pop("enhanced")) == expected.pop("enhanced")
    assert {"file": expected["file"], **result} == expected
    settings = settings_of(pipe, vad="level", **Treatment().facts)
    assert (response["model"], response["settings_hash"]) == (settings.model, settings.hash)


def test_scores_equal_those_of_the_pipeline(service, pipe):
    expected = pipe(DEMO / "clean_speech.flac")
    (result,) = service.analyze((DEMO / "clean_speech.flac").read_bytes(), "?audio=wav").json["results"]
    assert result["scores"] == {entry["label"]: round(entry["score"], 6) for entry in expected["emotion"]}
    waveform = soundfile.read(io.BytesIO(base64.b64decode(result["enhanced"])), dtype="int16")[0]
    assert (waveform == np.rint(expected["audio"] * 32768)).all()


def test_results_do_not_depend_on_batching(service, pipe):
    contents = [clip(seconds, seed) for seed, seconds in enumerate((1.0, 1.1, 2.0, 0.6, 1.5, 1.9))]
    alone = [service.analyze(content).json["results"][0]["scores"] for content in contents]
    with running(pipe, max_wait_ms=3_000) as batching, ThreadPoolExecutor(len(contents)) as clients:
        together = [response.json["results"][0] for response in clients.map(batching.analyze, contents)]
        batches = batching.metric('sparse_merit_batch_windows_count{role="primary"}')
    assert batches < 1 + len(contents)  # the first one is the warm-up
    for expected, result in zip(alone, together, strict=True):
        assert result["scores"] == pytest.approx(expected, abs=1e-5)


def test_each_channel_is_a_result_and_a_part(service, pipe, tmp_path):
    content = wav(np.stack([make_speech(2.0, seed=0), make_speech(2.0, seed=1)], axis=1))
    expected = enhanced_by_command(pipe, content, tmp_path, channel="each")
    response = service.analyze(content, "?channel=each&audio=wav", Accept="multipart/mixed")
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    first, *files = email.message_from_bytes(head + response.body).get_payload()
    results = json.loads(first.get_payload(decode=True))["results"]
    assert [result["channel"] for result in results] == [1, 2]
    assert [result["scores"] for result in results] == [record["scores"] for record in expected]
    assert [result["enhanced"] for result in results] == [file.get_filename() for file in files]
    assert [file.get_payload(decode=True) for file in files] == [record["enhanced"] for record in expected]


def test_a_recording_as_json_gives_the_same_result(service):
    content = clip()
    text = json.dumps({"inputs": base64.b64encode(content).decode()}).encode()
    one, other = service.analyze(content), service.analyze(text, Content_Type="application/json")
    assert one.json["results"] == other.json["results"]
    assert one.json["id"] != other.json["id"]


def test_tasks_can_be_chosen(service):
    (result,) = service.analyze(clip(), "?tasks=enhancement&audio=flac").json["results"]
    assert result["emotion"] is None and result["scores"] == {}
    assert base64.b64decode(result["enhanced"]).startswith(b"fLaC")
    (result,) = service.analyze(clip(), "?tasks=emotion").json["results"]
    assert result["emotion"] is not None and result["enhanced"] is None and "segments" not in result


def test_speech_beyond_full_scale_is_no_flac(service):
    loud = wav(5 * make_speech(2.0), subtype="FLOAT")
    assert service.analyze(loud, "?audio=flac").json["error"].endswith("ask for audio=wav.")
    assert service.analyze(loud, "?audio=wav").status == 200


def test_silence_has_no_emotion(service):
    (result,) = service.analyze(wav(np.zeros(RATE))).json["results"]
    assert (result["emotion"], result["reason"], result["level_dbfs"]) == (None, "no speech", None)


# Invalid requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, named",
    [
        ("?channel=<script>", "channel"),
        ("?channel=0", "channel"),
        ("?tasks=dance", "tasks"),
        ("?audio=mp3", "audio"),
        ("?tasks=emotion&audio=wav", "audio"),
        ("?min_score=nan", "min_score"),
        ("?min_score=2", "min_score"),
        ("?url=http://localhost/", "Extra inputs"),
    ],
)
def test_invalid_options_are_named_and_not_quoted(service, query, named):
    response = service.analyze(clip(), query)
    assert response.status == 422 and named in response.json["error"]
    assert "script" not in response.json["error"] and "dance" not in response.json["error"]


@pytest.mark.parametrize(
    "body, kind, message",
    [
        (b"", "audio/wav", "The body is empty"),
        (b"RIFF", "audio/wav", "The recording"),
        (b"{", "application/json", "Invalid JSON"),
        (b"[]", "application/json", "object"),
        (b'{"inputs": 1}', "application/json", "`inputs`: Input should be a valid string."),
        (b'{"inputs": "a", "path": "b"}', "application/json", "Extra inputs are not permitted."),
        (b"[" * 100_000, "application/json", "JSON"),
        (wav(np.full(RATE, np.nan), subtype="FLOAT"), "audio/wav", "NaN"),
        (wav(np.zeros(100)), "audio/wav", "25 ms"),
        (clip()[:20_000], "audio/wav", "cut short"),
    ],
)
def test_invalid_recordings_are_explained(service, body, kind, message):
    response = service.analyze(body, Content_Type=kind)
    assert response.status == 400 and message in response.json["error"]


def random_bodies(count: int) -> Iterator[tuple[bytes, str]]:
    """Noise, noise behind the beginning of a real file, and real files with changed bytes."""
    generator = np.random.default_rng(0)
    flac, ogg = ((DEMO / name).read_bytes() for name in ("clean_speech.flac", "three_voices.ogg"))
    starts = (b"", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"fLaC", b"OggS", b"ID3", b"FORM", b'{"inputs": "', clip(0.5))
    for number in range(count):
        noise = generator.integers(0, 256, generator.integers(1, 3_000), np.uint8).tobytes()
        if number % 4 < 3:
            yield starts[number % len(starts)] + noise, ("application/json", "audio/wav")[number % 2]
            continue
        content = bytearray((flac, ogg)[number % 8 // 4][: generator.integers(100, 9_000)])
        for place in generator.integers(0, len(content), 20):
            content[place] = generator.integers(0, 256)
        yield bytes(content), "audio/flac"


@pytest.mark.parametrize("count", [200, pytest.param(1_000, marks=pytest.mark.slow)])
def test_random_bodies_are_refused(service, monkeypatch, count):
    monkeypatch.setenv("PATH", "")  # without ffmpeg, which would take most of the time
    before = service.outcomes("failed")
    statuses = set()
    for body, kind in random_bodies(count):
        response = service.analyze(body, Content_Type=kind)
        statuses.add(response.status)
        assert response.status == 200 or response.json["error"]
    assert statuses <= {200, 400, 413}
    assert service.outcomes("failed") == before
    assert service.analyze(clip()).status == 200


def test_nothing_that_a_payload_names_is_opened(service, tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(clip())
    opened: list[str] = []
    is_watching = threading.Event()
    is_watching.set()
    names = [str(secret), f"file://{secret}", "http://127.0.0.1:9/secret.wav"]

    def watch(event: str, arguments: tuple) -> None:
        if is_watching.is_set() and event in ("open", "socket.connect", "subprocess.Popen"):
            opened.append(str(arguments))

    sys.addaudithook(watch)
    for name in names:
        for body, kind in ((name.encode(), "audio/wav"), (json.dumps({"inputs": name}).encode(), "application/json")):
            response = service.analyze(body, Content_Type=kind, Content_Location=name)
            assert response.status == 400 and "secret" not in response.json["error"]
    assert service.analyze(b"#EXTM3U\n" + str(secret).encode(), Content_Type="audio/x-mpegurl").status == 400
    is_watching.clear()  # the hook stays
    assert not [place for place in opened if "secret" in place or ", 9)" in place]


def test_responses_have_security_headers_and_quote_nothing(service):
    attack = "%0d%0aSet-Cookie:%20a=b{{7*7}}<script>"
    for path in (f"/v1/analyze?channel={attack}", f"/{attack}", f"/docs?x={attack}", f"/health/live?x={attack}"):
        response = service.request("POST" if "v1" in path else "GET", path, b"x" if "v1" in path else None)
        assert "set-cookie" not in response.headers and "server" not in response.headers
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert b"script>" not in response.body and b"49" not in response.body and b"a=b" not in response.body


def test_the_page_lists_all_operations_and_loads_nothing(service):
    page = service.request("GET", "/docs").body.decode()
    schema = service.request("GET", "/openapi.json").json
    assert set(schema["paths"]) == {"/v1/analyze", "/v1/feedback", "/health/live", "/health/ready", "/metrics"}
    assert all(path in page for path in schema["paths"])
    assert not re.search(r"<script|<link|<img|src=|https?:", page)


# Limits --------------------------------------------------------------------------------------------------------------


def test_large_bodies_are_refused_before_they_are_received(pipe):
    with running(pipe, limits=Limits(megabytes=0.1), **OFF) as service:
        with service.upload("Content-Length: 100001") as connection:  # no byte of the body is sent
            assert connection.recv(100).startswith(b"HTTP/1.1 413")
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        with service.upload("Transfer-Encoding: chunked", 2 * chunk) as connection:  # no length is stated
            assert connection.recv(100).startswith(b"HTTP/1.1 413")
        assert service.outcomes("large") == 2
        assert service.analyze(clip(2.0)).status == 200


def test_long_recordings_are_refused(pipe, monkeypatch):
    stereo = wav(np.zeros((2 * RATE, 2)))
    with running(pipe, limits=Limits(seconds=3.0), **OFF) as service:
        assert service.analyze(clip(2.9)).status == 200
        response = service.analyze(clip(3.1))
        assert response.status == 413 and "more than 3 s" in response.json["error"]
        assert service.analyze(stereo).status == 200
        assert "sum of its 2 channels" in service.analyze(stereo, "?channel=each").json["error"]
        monkeypatch.setattr("modeling_sparse_merit.service.tracks.stream_seconds", lambda *_: float("inf"))
        assert service.analyze(clip(3.1)).status == 413  # as for a header that states no duration


def test_slow_uploads_are_cut_off(pipe):
    with running(pipe, limits=Limits(transfer_seconds=0.3), **OFF) as service:
        with service.upload("Content-Length: 1000", b"RIFF") as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert service.outcomes("slow") == 1 and service.metric("sparse_merit_queue_length") == 0


def test_slow_heads_are_cut_off(pipe, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 1)
    with running(pipe, **OFF) as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            connection.sendall(b"POST /v1/analyze HTTP/1.1\r\nHost: local")
            assert connection.recv(100) == b""


def test_a_full_queue_is_reported(pipe):
    with running(pipe, limits=Limits(queue=1), **OFF) as service:
        with service.upload("Content-Length: 1000", b"RIFF"):
            wait_until(lambda: service.metric("sparse_merit_queue_length") == 1)
            response = service.analyze(clip())
            assert response.status == 503 and response.headers["retry-after"] == "1"
            assert service.request("GET", "/health/live").status == 200
        wait_until(lambda: service.metric("sparse_merit_queue_length") == 0)  # the client has disconnected
        assert service.outcomes("busy") == 1 and service.outcomes("disconnected") == 1
        assert service.analyze(clip()).status == 200


def test_a_client_that_disconnects_frees_its_place(service):
    before = service.outcomes("disconnected")
    content = wav(np.tile(make_speech(10.0), 50))
    with service.upload(f"Content-Length: {len(content)}", content):
        wait_until(lambda: service.metric("sparse_merit_queue_length") == 1)
    wait_until(lambda: service.metric("sparse_merit_queue_length") == 0)
    assert service.outcomes("disconnected") == before + 1
    assert service.analyze(clip()).status == 200


def test_an_analysis_that_takes_too_long_is_ended(pipe):
    with running(pipe, limits=Limits(analysis_seconds=0.5), **OFF) as service:
        content = wav(np.tile(make_speech(10.0), 50))
        assert service.analyze(content).status == 504
        assert service.outcomes("timeout") == 1


def test_a_client_that_does_not_read_frees_its_place():
    """The response goes out in chunks, and the rest is dropped."""
    sent, calls = [], []

    async def respond(scope, receive, send):
        await PlainResponse(bytes(1_000_000))(scope, receive, send)

    async def send(message):
        sent.append(message)
        if len(sent) == 4:
            await asyncio.Event().wait()

    gate = Gate(respond, None, Limits(transfer_seconds=0.2))
    gate.observers.append(calls.append)
    scope = {"type": "http", "path": "/v1/analyze", "method": "POST", "headers": []}
    asyncio.run(gate(scope, None, send))
    assert [len(message.get("body", b"")) for message in sent] == [0, 1 << 16, 1 << 16, 1 << 16]
    assert gate.length == 0 and [call.outcome for call in calls] == ["disconnected"]


# Access --------------------------------------------------------------------------------------------------------------


def test_a_token_is_required(pipe):
    with running(pipe, token=Token(TOKEN), **OFF) as service:
        content = clip(0.5)
        for given in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
            response = service.analyze(content, **given)
            assert response.status == 401 and response.headers["www-authenticate"] == "Bearer"
            assert service.request("GET", "/metrics", **given).status == 401
        assert service.analyze(content, Authorization=f"bearer {TOKEN}").status == 200
        for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
            assert service.request("GET", path).status == 200
        metrics = service.request("GET", "/metrics", Authorization=f"Bearer {TOKEN}").body
        assert b'outcome="unauthorized",role="primary"} 3.0' in metrics


def test_another_name_of_the_host_is_refused_without_a_token(service):
    assert service.request("GET", "/metrics", Host="attacker.example").status == 400
    assert service.request("GET", "/metrics", Host="[::1]:8080").status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_token(host):
    check_host(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_addresses_need_a_token(host):
    with pytest.raises(ValueError, match="--token-file"):
        check_host(host, None)
    check_host(host, Token(TOKEN))
    result = CliRunner().invoke(app, ["serve", "--host", host])
    assert result.exit_code == 2 and "--token-file" in result.output


@pytest.mark.parametrize("text", ["", "short", "two words of a secret", "geheim-geheim-ä-geheim"])
def test_weak_tokens_are_refused(text):
    with pytest.raises(ValueError, match="at least 16"):
        Token(text)


# Operation -----------------------------------------------------------------------------------------------------------


def test_corrections_are_appended(service):
    response = service.analyze(clip(2.0)).json
    predicted = response["results"][0]
    correction = json.dumps({"id": response["id"], "emotion": "sad"}).encode()
    assert service.request("POST", "/v1/feedback", correction).status == 204
    line = json.loads(service.feedback_file.read_text().splitlines()[-1])
    assert line.pop("time") and line == {
        "id": response["id"],
        "channel": 1,
        "emotion": "sad",
        "predicted": predicted["emotion"],
        "scores": predicted["scores"],
        "model": response["model"],
    }


@pytest.mark.parametrize(
    "correction, status",
    [
        ({"id": "0" * 32, "emotion": "sad"}, 404),
        ({"id": "0" * 32, "emotion": "<b>"}, 422),
        ({"id": 1, "emotion": "sad"}, 400),
        ({"id": "0" * 5_000, "emotion": "sad"}, 413),
        ({"emotion": "sad"}, 400),
    ],
)
def test_wrong_corrections_are_refused(service, correction, status):
    before = service.feedback_file.read_bytes()
    response = service.request("POST", "/v1/feedback", json.dumps(correction).encode())
    assert response.status == status and response.json["error"]
    assert service.feedback_file.read_bytes() == before


def test_a_correction_of_several_results_names_a_channel(service):
    content = wav(np.stack([make_speech(1.0, seed=0), make_speech(1.0, seed=1)], axis=1))
    correction = {"id": service.analyze(content, "?channel=each").json["id"], "emotion": "sad"}
    assert service.request("POST", "/v1/feedback", json.dumps(correction).encode()).status == 422
    correction["channel"] = 2
    assert service.request("POST", "/v1/feedback", json.dumps(correction).encode()).status == 204


def test_metrics_count_requests(pipe):
    with running(pipe, **OFF) as service:
        for seconds in (1.0, 2.0):
            assert service.analyze(clip(seconds)).status == 200
        assert service.analyze(b"noise").status == 400
        assert service.outcomes("ok") == 2 and service.outcomes("invalid") == 1
        assert service.metric('sparse_merit_audio_seconds_total{role="primary"}') == pytest.approx(3.0)
        for stage in ("decode", "queue", "model", "total"):
            name = f'sparse_merit_request_duration_seconds_count{{role="primary",stage="{stage}"}}'
            assert service.metric(name) == 2
        assert service.metric('sparse_merit_input_level_dbfs_count{role="primary"}') == 2
        text = service.request("GET", "/metrics").body.decode()
        predictions = re.findall(r"^sparse_merit_predictions_total\{.*\} (\S+)$", text, re.MULTILINE)
        assert sum(map(float, predictions)) == 2
        frames = re.findall(r'^sparse_merit_expert_frames_total\{.*task="emotion"\} (\S+)$', text, re.MULTILINE)
        assert sum(map(float, frames)) == pytest.approx(150, abs=4)  # 50 a second
        assert "process_resident_memory_bytes" in text


def test_a_failing_model_is_an_error_that_is_counted():
    broken = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu")
    with running(broken, **OFF) as service:
        with torch.no_grad():
            for weights in broken.model.parameters():
                weights.fill_(float("nan"))
        for query in ("", "?tasks=emotion"):
            response = service.analyze(clip(), query)
            assert (response.status, response.json) == (500, {"error": "The model failed on this recording."})
        assert service.outcomes("failed") == 2


def test_a_batch_that_fails_is_repeated_one_by_one(pipe, monkeypatch):
    run = WindowModel.run

    def run_one(self, windows):
        if len(windows) > 1:
            raise RuntimeError("out of memory")
        return run(self, windows)

    monkeypatch.setattr(WindowModel, "run", run_one)
    with running(pipe, max_wait_ms=1_000) as service, ThreadPoolExecutor(3) as clients:
        responses = list(clients.map(service.analyze, [clip(1.0, seed) for seed in range(3)]))
        assert [response.status for response in responses] == [200, 200, 200]


def test_logs_are_lines_of_json_without_contents(service):
    stream = io.StringIO()
    start_logging(stream)
    response = service.analyze(clip(), "?channel=1", Content_Disposition="attachment; filename=private.wav")
    wait_until(lambda: '"request"' in stream.getvalue())  # the line follows the response
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["id"] == response.json["id"] and line["outcome"] == "ok" and line["total_ms"] > 0
    assert "private" not in stream.getvalue() and response.json["results"][0]["emotion"] not in stream.getvalue()


def test_messages_of_exceptions_are_not_logged():
    try:
        raise ValueError("private")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, __file__, 1, "error", None, sys.exc_info())
    fields = json.loads(JsonFormatter().format(record))
    assert fields["error"] == "ValueError" and "test_service.py" in fields["trace"][0]
    assert "private" not in json.dumps(fields)


@pytest.mark.slow
def test_the_command_says_what_is_lawful_and_finishes_requests_at_sigterm(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        service = Service(free.getsockname()[1])
    command = [sys.executable, "-m", "modeling_sparse_merit.cli", "serve", "--model", "tiny", "--port"]
    log = tmp_path / "log"
    with log.open("w") as stdout:
        process = subprocess.Popen([*command, str(service.port)], cwd=ROOT, stdout=stdout, env={**os.environ})
    try:

        def is_ready() -> bool:
            assert process.poll() is None
            try:
                return service.request("GET", "/health/ready").status == 200
            except ConnectionError:
                return False

        wait_until(is_ready, 300)
        with ThreadPoolExecutor(1) as clients:
            future = clients.submit(service.analyze, wav(np.tile(make_speech(10.0), 20)))
            wait_until(lambda: service.metric("sparse_merit_queue_length") == 1)
            process.send_signal(signal.SIGTERM)
            assert future.result().status == 200
        process.wait(60)
    finally:
        process.kill()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["notice"][:7] for event in events if event["event"] == "notice"] == ["Analyse"]
