# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The Inference Endpoint handler, over HTTP: what a client sends, what it gets back, and what is refused."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile

from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.hub.export import export_checkpoint

LABELS = {"angry", "sad", "happy", "neutral"}

# A process of its own, as an endpoint is: loads `handler.py` from the repository, then does with each request what the
# endpoint's server does: audio is the input itself, JSON is the payload.
ENDPOINT = """
import importlib.util, json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

repository = sys.argv[1]
spec = importlib.util.spec_from_file_location("handler", repository + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(repository)

class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_audio = self.headers["Content-Type"].startswith("audio/")
        response = json.dumps(handler({"inputs": body} if is_audio else json.loads(body))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def log_message(self, *arguments):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()  # until the test is over
"""


@pytest.fixture(scope="module")
def post(tiny_checkpoint, tmp_path_factory) -> Iterator[Callable]:
    """`post(body, content_type)` asks an endpoint that serves an exported checkpoint; returns (status, response)."""
    folder = tmp_path_factory.mktemp("endpoint")
    repository = export_checkpoint(tiny_checkpoint, folder / "repository")
    offline = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    process = subprocess.Popen(
        [sys.executable, "-c", ENDPOINT, str(repository)],
        cwd=folder,
        env={**os.environ, **offline},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        port = int(process.stdout.readline())

        def send(body: bytes | dict | list, content_type: str = "application/json") -> tuple[int, dict | list]:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"Content-Type": content_type}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", content, headers, method="POST")
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
                return response.status, json.loads(response.read(), parse_constant=pytest.fail)

        yield send
        process.stdin.close()


@pytest.fixture(scope="module")
def recording(speech_clip) -> np.ndarray:
    return np.rint(speech_clip(1.0) * 32768).astype(np.int16).astype(np.float32) / 32768


def encode(waveform: np.ndarray, rate: int = 16_000, file_format: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=file_format, subtype=subtype)
    return buffer.getvalue()


def audio_of(output: dict) -> tuple[np.ndarray, int, str]:
    """Samples, rate and subtype of the WAV in a response."""
    content = io.BytesIO(base64.b64decode(output["audio"], validate=True))
    subtype = soundfile.info(content).subtype
    content.seek(0)
    return *soundfile.read(content, dtype="float32"), subtype


def test_raw_audio_gives_emotion_and_speech_as_the_package_does(post, recording, tiny_checkpoint):
    status, output = post(encode(recording), "audio/wav")
    expected = SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint)(
        {"array": recording, "sampling_rate": 16_000}
    )
    assert status == 200 and set(output) == {"emotion", "audio", "sampling_rate"}
    assert [entry["label"] for entry in output["emotion"]] == [entry["label"] for entry in expected["emotion"]]
    scores = [entry["score"] for entry in output["emotion"]]
    assert scores == pytest.approx([entry["score"] for entry in expected["emotion"]], abs=1e-6)
    waveform, rate, subtype = audio_of(output)
    assert rate == output["sampling_rate"] == 16_000 and subtype == "PCM_16" and len(waveform) == len(recording)
    assert np.abs(waveform - expected["audio"]).max() <= 0.5 / 32768 + 1e-6


@pytest.mark.parametrize("form", ["base64", "data URI", "wrapped base64", "array", "raw", "FLAC", "stereo"])
def test_every_form_of_a_recording_gives_the_same_response(post, recording, form):
    _, expected = post(encode(recording), "audio/x-wav")
    text = base64.b64encode(encode(recording)).decode()
    inputs = {
        "base64": text,
        "data URI": f"data:audio/wav;base64,{text}",
        "wrapped base64": "\n".join(text[start : start + 76] for start in range(0, len(text), 76)),
        "array": {"array": recording.tolist(), "sampling_rate": 16_000},
        "raw": {"raw": recording.tolist(), "sampling_rate": 16_000},
        "FLAC": base64.b64encode(encode(recording, file_format="FLAC")).decode(),
        "stereo": {"array": [recording.tolist(), recording.tolist()], "sampling_rate": 16_000},
    }
    _, output = post({"inputs": inputs[form]})
    assert output["emotion"] == expected["emotion"] and output["audio"] == expected["audio"]


def test_other_rates_are_resampled(post, speech_clip):
    _, output = post(encode(speech_clip(1.0, sampling_rate=44_100), 44_100), "audio/flac")
    assert len(audio_of(output)[0]) == 16_000 and output["sampling_rate"] == 16_000


def test_parameters_choose_tasks_and_number_of_emotions(post, recording):
    inputs = {"array": recording.tolist(), "sampling_rate": 16_000}
    _, whole = post({"inputs": inputs})
    _, best = post({"inputs": inputs, "parameters": {"top_k": 1}})
    _, emotion = post({"inputs": inputs, "parameters": {"tasks": ["emotion"], "top_k": 2}})
    _, enhancement = post({"inputs": inputs, "parameters": {"tasks": "enhancement", "top_k": None}})
    _, timeline = post({"inputs": inputs, "parameters": {"return_segments": True, "min_score": 1}})
    assert timeline["reason"] == "unsure" and {segment["emotion"] for segment in timeline["segments"]} == {None}
    assert {entry["label"] for entry in whole["emotion"]} == LABELS
    assert best["emotion"] == whole["emotion"][:1] and best["audio"] == whole["audio"]
    assert emotion == {"emotion": whole["emotion"][:2]}
    assert enhancement == {"audio": whole["audio"], "sampling_rate": 16_000}


def test_speech_beyond_full_scale_comes_back_unclipped(post, recording):
    _, quiet = post(encode(recording, subtype="FLOAT"), "audio/wav")
    _, loud = post(encode(64 * recording, subtype="FLOAT"), "audio/wav")
    waveform, _, subtype = audio_of(loud)
    assert subtype == "FLOAT" and np.abs(waveform).max() > 1
    assert np.abs(waveform / 64 - audio_of(quiet)[0]).max() < 2 / 32768


def test_a_list_is_processed_one_by_one(post, recording):
    good = base64.b64encode(encode(recording)).decode()
    _, outputs = post({"inputs": [good, "call.wav", {"array": recording.tolist(), "sampling_rate": 16_000}]})
    assert outputs[0] == outputs[2] and "audio" in outputs[0]
    assert list(outputs[1]) == ["error"]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([], r"payload is \[\]; expected an object with `inputs`"),
        ({"input": "x"}, "an object with .*'input'.*expected an object with `inputs`"),
        ({"inputs": None}, "expected an object with `inputs`"),
        ({"inputs": 3}, "`inputs` is 3; expected the bytes of an audio file"),
        ({"inputs": [0.1, 0.2]}, r"\[0.1, 0.2\]; expected .*sampling_rate"),
        ({"inputs": "QUJD"}, "Cannot decode"),
        ({"inputs": {"array": [0.1] * 800}}, "pass its rate in Hz, `sampling_rate=...`"),
        ({"inputs": {"array": [0.1] * 800, "sampling_rate": 1}}, "sampling rate of 1; expected a whole number of Hz"),
        ({"inputs": base64.b64encode(encode(np.zeros(500_000), 1)).decode()}, "sampling rate of 1; expected"),
        ({"inputs": {"array": [100, -20_000], "sampling_rate": 16_000}}, "reach 20000; .*-1 to 1"),
        ({"inputs": {"array": [[0.1], [0.1, 0.2]], "sampling_rate": 16_000}}, "samples of `inputs` are"),
        ({"inputs": {"array": [], "sampling_rate": 16_000}}, "empty"),
        ({"inputs": {"array": [0.1, 0.2], "sampling_rate": 16_000}}, "2 samples"),
        ({"inputs": "QUJD", "parameters": ["emotion"]}, "`parameters` is .*expected an object"),
        ({"inputs": "QUJD", "parameters": {"topk": 1}}, "'topk'.*'tasks', 'top_k'"),
        ({"inputs": "QUJD", "parameters": {"top_k": 0}}, "`top_k` is 0; expected"),
        ({"inputs": "QUJD", "parameters": {"min_score": 2}}, "`min_score` is 2; expected a number from 0 to 1"),
        ({"inputs": "QUJD", "parameters": {"return_segments": 1}}, "`return_segments` is 1; expected true or false"),
        ({"inputs": "QUJD", "parameters": {"tasks": ["speaker"]}}, "'speaker'.*'enhancement', 'emotion'"),
    ],
)
def test_a_bad_payload_gets_an_error_that_names_what_was_given(post, payload, message):
    status, output = post(payload)
    assert status == 200 and list(output) == ["error"]
    assert re.search(message, output["error"]), output


@pytest.mark.parametrize("body", [b"", b"no audio at all", encode(np.zeros(8_000))[:2_000]])
def test_damaged_audio_gets_an_error(post, body):
    assert list(post(body, "audio/wav")[1]) == ["error"]


@pytest.mark.parametrize("place", ["inputs", "array", "raw", "samples", "path", "bytes", "list"])
def test_files_of_the_server_are_never_opened(post, recording, tmp_path, place):
    soundfile.write(tmp_path / "secret.wav", recording, 16_000)
    path = str(tmp_path / "secret.wav")
    inputs = {
        "inputs": path,
        "array": {"array": path, "sampling_rate": 16_000},
        "raw": {"raw": path, "sampling_rate": 16_000},
        "samples": {"array": [path], "sampling_rate": 16_000},
        "path": {"path": path},
        "bytes": {"bytes": path, "path": path},
        "list": [path],
    }
    _, output = post({"inputs": inputs[place]})
    output = output[0] if place == "list" else output
    assert list(output) == ["error"] and "paths and URLs are not opened" in output["error"]


def test_urls_are_never_fetched(post):
    asked = []

    class Bait(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Bait) as bait:
        threading.Thread(target=bait.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{bait.server_port}/a.wav"
        for inputs in (url, {"array": url, "sampling_rate": 16_000}, {"url": url}, {"path": url}):
            assert "paths and URLs are not opened" in post({"inputs": inputs})[1]["error"]
        bait.shutdown()
    assert asked == []
