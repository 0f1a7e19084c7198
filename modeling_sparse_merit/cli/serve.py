# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit serve`."""

from pathlib import Path
from typing import Annotated

import typer

from ..extras import import_extra
from ..service.limits import Limits
from .options import (
    DeviceOption,
    EmotionsOption,
    ModelOption,
    Precision,
    RevisionOption,
    Vad,
    errors_in_one_line,
    load_pipeline,
    quieten_notices,
    resolve_model,
    speech_detector,
)
from .printing import INTERRUPTED

PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "psutil")


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
    shadow: Annotated[
        str | None,
        typer.Option(help="Name, folder or Hub id of a candidate that analyses copies of requests in shadow mode."),
    ] = None,
    shadow_only: Annotated[
        bool, typer.Option(help="Run --model in shadow mode: accept recordings, record its results, and return none.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Folder of the record of shadow mode; it has no audio and no names of files.")
    ] = None,
    record_audio: Annotated[
        bool, typer.Option(help="Keep the recordings in the record, too: only with the consent of their speakers.")
    ] = False,
    sample: Annotated[
        float, typer.Option(help="Share of the requests that the candidate is given.", min=0, max=1)
    ] = 1.0,
    shadow_timeout: Annotated[
        float, typer.Option(help="Longest analysis of a copy in seconds; the candidate is then restarted.", min=0.1)
    ] = 30.0,
    shadow_memory: Annotated[
        float, typer.Option(help="Most memory of the candidate in MB; it is then restarted.", min=1)
    ] = 4_096.0,
    shadow_queue: Annotated[int, typer.Option(help="Copies that wait; further ones are dropped.", min=1)] = 32,
    shadow_device: Annotated[
        str, typer.Option(help="Device of the candidate; on a GPU, it shares the memory of the service.")
    ] = "cpu",
    shadow_threads: Annotated[int, typer.Option(help="CPU threads of the candidate.", min=1)] = 1,
    reference: Annotated[
        Path | None, typer.Option(help="Reference of `monitor-reference`, against which drift is measured.")
    ] = None,
    emotions: EmotionsOption = None,
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
        check_shadow_options(shadow, shadow_only, record, record_audio)
        for package in PACKAGES:
            import_extra(package, "serve")
        from ..monitoring.drift import Reference
        from ..service.authentication import check_host, read_token
        from ..service.candidate import Candidate
        from ..service.candidate_process import ProcessLimits
        from ..service.server import ServiceOptions
        from ..service.server import serve as run
        from ..service.shadow import ShadowOptions

        token = None if token_file is None else read_token(token_file)
        check_host(host, token)
        limits = Limits(max_megabytes, max_seconds, queue, transfer_seconds, analysis_seconds)
        detector = speech_detector(vad)
        known = None if reference is None else Reference.load(reference)
        quieten_notices()
        candidate = None
        if shadow is not None or shadow_only:
            source = resolve_candidate(model if shadow_only else shadow, revision if shadow_only else None)
            candidate = Candidate(
                source,
                revision if shadow_only else None,
                shadow_device,
                precision.value,
                detector,
                limits,
                shadow_threads,
                tuple(emotions or ()) if shadow_only else (),
            )
        options = ServiceOptions(
            limits,
            batch_seconds,
            max_wait_ms,
            token,
            feedback_file,
            detector,
            candidate,
            ShadowOptions(ProcessLimits(shadow_timeout, shadow_memory), shadow_queue, sample),
            record,
            record_audio,
            known,
        )
        pipe = None if shadow_only else load_pipeline(model, device, precision.value, revision, emotions or ())
        try:
            run(pipe, options, host, port)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def check_shadow_options(shadow: str | None, shadow_only: bool, record: Path | None, record_audio: bool) -> None:
    """Checks the options of shadow mode against each other.

    Args:
        shadow, shadow_only, record, record_audio: the values of the options.

    Raises:
        ValueError: an option lacks another one, or contradicts it.
    """
    if shadow is not None and shadow_only:
        raise ValueError("--shadow-only runs --model in shadow mode, without another model: leave --shadow out.")
    if record is not None and shadow is None and not shadow_only:
        raise ValueError("--record is the record of shadow mode: give --shadow CANDIDATE, or --shadow-only.")
    if record_audio and record is None:
        raise ValueError("--record-audio adds recordings to a record: give its folder with --record.")


def resolve_candidate(model: str | None, revision: str | None) -> str:
    """Checks that a candidate can be found, before the service starts.

    Args:
        model: name of an embedded checkpoint, folder or Hub id; None is the default checkpoint.
        revision: branch or commit of a model on the Hub.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is no checkpoint of this package, or a revision was given for a folder.
    """
    from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig

    source = resolve_model(model, revision)
    SparseMeritConfig.from_pretrained(source, revision=revision or "main")
    return source
