# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit serve`."""

from pathlib import Path
from typing import Annotated

import typer

from ..extras import import_extra
from ..service.limits import Limits
from .options import (
    DeviceOption,
    ModelOption,
    Precision,
    RevisionOption,
    Vad,
    errors_in_one_line,
    load_pipeline,
    quieten_notices,
    speech_detector,
)
from .printing import INTERRUPTED

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(help="Address to bind to; any that other computers can reach needs --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind to.", min=1, max=65_535)] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token that clients must send, one line.")
    ] = None,
    feedback_file: Annotated[
        Path | None, typer.Option(help="File of JSON lines to which corrected emotions are appended.")
    ] = None,
    max_megabytes: Annotated[float, typer.Option(help="Largest body in MB.", min=0.001)] = Limits.megabytes,
    max_seconds: Annotated[float, typer.Option(help="Longest recording in seconds.", min=0.025)] = Limits.seconds,
    queue: Annotated[int, typer.Option(help="Requests at the same time; further ones get 503.", min=1)] = Limits.queue,
    transfer_seconds: Annotated[
        float, typer.Option(help="Longest upload, and longest delivery of a response, in seconds.", min=0.1)
    ] = Limits.transfer_seconds,
    analysis_seconds: Annotated[
        float, typer.Option(help="Longest time from the end of an upload to its result, in seconds.", min=0.1)
    ] = Limits.analysis_seconds,
    batch_seconds: Annotated[
        float | None,
        typer.Option(
            help="Seconds of audio in one batch, including padding; 0 turns batching off. 10 on a CPU and 40 "
            "elsewhere by default.",
            min=0,
        ),
    ] = None,
    max_wait_ms: Annotated[
        float, typer.Option(help="Longest time that a recording waits for others in its batch, in ms.", min=0)
    ] = 5.0,
    vad: Annotated[
        Vad, typer.Option(help="Voice activity detector: silero (extra vad), level, or auto (silero if installed).")
    ] = Vad.AUTO,
    device: DeviceOption = None,
    precision: Annotated[Precision, typer.Option(help="bf16 and int8 are for large models.")] = Precision.FP32,
    revision: RevisionOption = None,
) -> None:
    """Serve a model over HTTP: emotion and enhanced speech of recordings, health, metrics. Needs the extra serve.

    Logs are lines of JSON on standard output. SIGTERM finishes the requests that have begun.

    Example: sparse-merit serve --model tiny --port 8080
    """
    with errors_in_one_line():
        for package in PACKAGES:
            import_extra(package, "serve")
        from ..service.authentication import check_host, read_token
        from ..service.server import ServiceOptions
        from ..service.server import serve as run

        token = None if token_file is None else read_token(token_file)
        check_host(host, token)
        limits = Limits(max_megabytes, max_seconds, queue, transfer_seconds, analysis_seconds)
        detector = speech_detector(vad)
        quieten_notices()
        pipe = load_pipeline(model, device, precision.value, revision)
        options = ServiceOptions(limits, batch_seconds, max_wait_ms, token, feedback_file, detector)
        try:
            run(pipe, options, host, port)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
