# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A real server of `sparse-merit serve` on loopback, for several test files."""

import http.client
import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import soundfile
import uvicorn
from conftest import make_speech

from modeling_sparse_merit.service.server import Service as Served
from modeling_sparse_merit.service.server import ServiceOptions, configuration

RATE = 16_000


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Service:
    """A running service."""

    port: int

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return Response(response.status, {name.lower(): text for name, text in response.getheaders()}, content)

    def analyze(self, body: bytes, query: str = "", **headers: str) -> Response:
        return self.request("POST", f"/v1/analyze{query}", body, **headers)

    def metric(self, name: str) -> float:
        """The value of a series, such as `sparse_merit_queue_length`."""
        text = self.request("GET", "/metrics").body.decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])

    def outcomes(self, outcome: str) -> float:
        return self.metric(f'sparse_merit_requests_total{{outcome="{outcome}",role="primary"}}')

    @contextmanager
    def upload(self, head: str, body: bytes = b"") -> Iterator[socket.socket]:
        """A connection with the beginning of a request."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            lines = f"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n"
            connection.sendall(lines.encode() + body)
            yield connection


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running(pipe, **options) -> Iterator[Service]:
    chosen = ServiceOptions(**options)
    uvicorn_server = uvicorn.Server(configuration(Served(pipe, chosen).gate, chosen.limits, "127.0.0.1", 0))
    thread = threading.Thread(target=uvicorn_server.run)
    thread.start()
    try:
        wait_until(lambda: uvicorn_server.started)
        service = Service(uvicorn_server.servers[0].sockets[0].getsockname()[1])
        wait_until(lambda: service.request("GET", "/health/ready").status == 200)
        yield service
    finally:
        uvicorn_server.should_exit = True
        thread.join()


def wav(samples: np.ndarray, rate: int = RATE, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **options)
    return file.getvalue()


def clip(seconds: float = 2.0, seed: int = 0) -> bytes:
    return wav(make_speech(seconds, seed=seed))
