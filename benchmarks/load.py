# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Load test of `sparse-merit serve`: requests a second, latency and growth of memory, with and without batching, and
with a candidate in shadow mode.

Starts the service on loopback for each side in turn, as often as `--rounds` says; the scores of a side are medians.
Clients send recordings one after another, each on one connection. Errors end the test. Writes `load.json` and
`load.md` to `benchmarks/results/service`.

    python -m benchmarks.load --seconds 300
    python -m benchmarks.load --clients 1 --seconds 60 --rounds 5 --side "no batching" \\
        --side "no batching, shadow mode" --output benchmarks/results/service/shadow
"""

import http.client
import itertools
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from benchmarks.writing import RESULTS, commit, write_results

DEMO = Path(__file__).parents[1] / "modeling_sparse_merit" / "demo"
RECORDINGS = ("noisy_speech.flac", "clean_speech.flac", "three_voices.ogg")
OFF = ("--batch-seconds", "0")
SIDES = {"batching": (), "no batching": OFF, "no batching, shadow mode": (*OFF, "--shadow")}
MEBIBYTE = 1 << 20
PATIENCE = 600  # seconds for the start of the service, and for a response


@dataclass
class Load:
    """What clients and the observer of the memory noted.

    Args:
        latencies: seconds from the beginning of each request to the end of its response.
        memory: (seconds since the start, resident memory in MiB) of the service.
        errors: responses and exceptions that are not a success.
    """

    latencies: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def running(model: str, options: tuple[str, ...]) -> Iterator[tuple[int, psutil.Process]]:
    """The port and the process of a service, when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "modeling_sparse_merit.cli", "serve", "--model", model, "--port", str(port)]
    if "--shadow" in options:
        options = (*options, model)
    with subprocess.Popen([*command, "--vad", "level", *options], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_ready(port, has_candidate="--shadow" in options)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()


def wait_until_ready(port: int, has_candidate: bool) -> None:
    """Waits for the model, and for the candidate if there is one.

    Raises:
        TimeoutError: it was not ready in time.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if get(port, "/health/ready")[0] == 200 and (
                not has_candidate or b"sparse_merit_shadow_up 1.0" in get(port, "/metrics")[1]
            ):
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"The service was not ready after {PATIENCE} s.")


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a page of the service."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def send(port: int, contents: Iterator[bytes], end: float, load: Load) -> None:
    """Sends recordings one after another until a time of `time.monotonic`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    while time.monotonic() < end and not load.errors:
        begun = time.perf_counter()
        try:
            connection.request("POST", "/v1/analyze", next(contents))
            response = connection.getresponse()
            response.read()
        except OSError as error:
            load.errors.append(repr(error))
            return
        load.latencies.append(time.perf_counter() - begun)
        if response.status != 200:
            load.errors.append(f"status {response.status}")


def measure(port: int, process: psutil.Process, clients: int, seconds: float) -> Load:
    """Sends recordings from all clients for some seconds."""
    load, contents = Load(), [(DEMO / name).read_bytes() for name in RECORDINGS]
    begun = time.monotonic()
    turns = [itertools.islice(itertools.cycle(contents), number, None) for number in range(clients)]
    arguments = [(port, turn, begun + seconds, load) for turn in turns]
    threads = [threading.Thread(target=send, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        load.memory.append((time.monotonic() - begun, process.memory_info().rss / MEBIBYTE))
        time.sleep(1)
    return load


def described(load: Load) -> dict[str, Any]:
    """Numbers of a test; the slope of the memory is that of its second half."""
    times, sizes = np.array(load.memory).T
    elapsed = load.memory[-1][0]  # the last requests end after the test
    late = times >= times[-1] / 2
    slope = np.polyfit(times[late] / 60, sizes[late], 1)[0] if late.sum() > 2 else float("nan")
    p50, p95, p99 = np.percentile(load.latencies, (50, 95, 99)) if load.latencies else [float("nan")] * 3
    return {
        "requests": len(load.latencies),
        "requests_per_second": round(len(load.latencies) / elapsed, 3),
        "p50_s": round(float(p50), 3),
        "p95_s": round(float(p95), 3),
        "p99_s": round(float(p99), 3),
        "memory_mib": round(float(sizes[-1]), 1),
        "memory_slope_mib_per_minute": round(float(slope), 3),
        "errors": load.errors,
    }


def copies_of(port: int) -> dict[str, int]:
    """How many copies the candidate analysed, and how many were dropped; nothing without a candidate."""
    text = get(port, "/metrics")[1].decode()
    names = {
        "copies_analysed": 'sparse_merit_requests_total{outcome="ok",role="shadow"}',
        "copies_dropped": 'sparse_merit_shadow_dropped_total{reason="queue"}',
    }
    lines = dict(line.rpartition(" ")[::2] for line in text.splitlines())
    return {name: int(float(lines[series])) for name, series in names.items() if series in lines}


def as_markdown(results: dict[str, Any]) -> str:
    """The results as a table."""
    rounds = {len(row["rounds"]) for row in results["sides"].values()}
    lines = [
        f"{results['clients']} clients for {results['seconds']:g} s, recordings of 5.7, 5.6 and 24.3 s, medians over "
        f"{max(rounds)} rounds; {results['machine']}, commit {results['commit']}, `{results['command']}`.",
        "",
        "| | requests a second | p50 | p95 | p99 | memory | slope | errors | copies analysed, dropped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for side, row in results["sides"].items():
        latencies = " | ".join(f"{row[f'{name}_s']} s" for name in ("p50", "p95", "p99"))
        memory = f"{row['memory_mib']} MiB | {row['memory_slope_mib_per_minute']} MiB a minute"
        copies = f"{row['copies_analysed']:g}, {row['copies_dropped']:g}" if "copies_analysed" in row else ""
        rate, errors = row["requests_per_second"], len(row["errors"])
        lines.append(f"| {side} | {rate} | {latencies} | {memory} | {errors} | {copies} |")
    return "\n".join(lines)


def median_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each number over the rounds, and all errors."""
    numbers = {
        name: round(float(np.median([row[name] for row in rounds])), 3) for name in rounds[0] if name != "errors"
    }
    return {**numbers, "errors": [error for row in rounds for error in row["errors"]], "rounds": rounds}


def main(
    model: Annotated[str, typer.Option(help="Name, folder or Hub id of a checkpoint.")] = "tiny",
    clients: Annotated[int, typer.Option(help="Clients at the same time.", min=1, max=32)] = 16,
    seconds: Annotated[float, typer.Option(help="Duration of the test of each side.", min=5)] = 300,
    rounds: Annotated[int, typer.Option(help="Tests of each side, in turn.", min=1)] = 1,
    side: Annotated[list[str], typer.Option(help="Sides to measure.")] = list(SIDES),  # noqa: B006
    output: Annotated[Path, typer.Option(help="Path of the results, without suffix.")] = RESULTS / "service" / "load",
) -> None:
    """Measures the service with and without batching, and with a candidate."""
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in side}
    for _ in range(rounds):
        for name in side:
            with running(model, SIDES[name]) as (port, process):
                measured[name].append(described(measure(port, process, clients, seconds)) | copies_of(port))
            typer.echo(f"{name}: {json.dumps(measured[name][-1])}")
    sides = {name: median_of(rows) for name, rows in measured.items()}
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    facts = {"model": model, "clients": clients, "seconds": seconds, "machine": machine, "commit": commit()}
    results = {**facts, "command": shlex.join(["python", "-m", "benchmarks.load", *sys.argv[1:]]), "sides": sides}
    write_results(output, results, as_markdown(results))
    if any(row["errors"] for row in sides.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
