# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit watch`: enhances recordings as they arrive in a folder or at a URL."""

import json
import signal
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from ..extras import import_extra
from ..files import OutputError
from .enhance import Options, checked_treatment, load_treatment
from .options import (
    ChannelOption,
    ChunkLengthOption,
    DeviceOption,
    DistressOption,
    EmotionsOption,
    MinScoreOption,
    ModelOption,
    OutputOption,
    PlotOption,
    Precision,
    PrecisionOption,
    QuietOption,
    RateOption,
    RevisionOption,
    SegmentsOption,
    StrideLengthOption,
    Vad,
    VadOption,
    errors_in_one_line,
    load_pipeline,
    quieten_notices,
)

if TYPE_CHECKING:
    from ..inference.corpora import CorpusResults, Loaded, Source
    from ..inference.files import Recording
    from ..inference.results import Results
    from ..inference.tracks import Treatment
    from ..inference.watching import Arrival, Arriving
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline

NAP_SECONDS = 0.2  # between two checks for a signal


def watch(
    inbox: Annotated[str, typer.Argument(help="Folder or URL in which recordings arrive, searched recursively.")],
    output: OutputOption = "enhanced",
    interval: Annotated[float, typer.Option(help="Seconds between two looks into the folder.", min=0.1)] = 5.0,
    settle_seconds: Annotated[
        float,
        typer.Option(help="A file is complete if its size and modification time have not changed for so long.", min=0),
    ] = 10.0,
    model: ModelOption = None,
    channel: ChannelOption = "mix",
    rate: RateOption = None,
    plot: PlotOption = False,
    segments: SegmentsOption = None,
    min_score: MinScoreOption = 0.0,
    emotions: EmotionsOption = None,
    distress: DistressOption = "",
    vad: VadOption = Vad.AUTO,
    chunk_length: ChunkLengthOption = None,
    stride_length: StrideLengthOption = None,
    quiet: QuietOption = False,
    device: DeviceOption = None,
    precision: PrecisionOption = Precision.FP32,
    revision: RevisionOption = None,
) -> None:
    """Enhance recordings as they arrive in a folder or at a URL. Writes what enhance writes, and JSON to stdout.

    Each recording is processed once, also if the command is stopped, killed and started again; a recording that
    changes is processed again. Ctrl-C and SIGTERM stop the command after the current recording.

    Example: sparse-merit watch inbox/ -o clean --segments csv
    """
    with errors_in_one_line(), StopSignal() as stop:
        treatment = checked_treatment(channel, rate, plot, segments, min_score, distress, chunk_length, stride_length)
        if "://" not in inbox and not Path(inbox).is_dir():
            raise NotADirectoryError(f"{inbox} is no folder: give the folder in which recordings arrive.")
        if quiet:
            quieten_notices()
        load = partial(
            load_pipeline, model, precision=precision.value, revision=revision, further_tasks=emotions or ()
        )
        loaded = load_treatment(load, device, Options(treatment, vad))
        log = Log(quiet)
        with ExitStack() as stack:
            watcher, arriving = _open(inbox, output, settle_seconds, loaded, log, stack)
            log("started", inbox=inbox, output=output, model=loaded[2].model)
            try:
                watcher.run(arriving, interval, stop)
            except OutputError as error:
                log("stopped", done=watcher.done, failed=watcher.failed, error=str(error))
                raise typer.Exit(2) from error
        log("stopped", done=watcher.done, failed=watcher.failed)


def _open(
    inbox: str, output: str, settle_seconds: float, loaded: "Loaded", log: "Log", stack: ExitStack
) -> "tuple[Watcher[Any], Arriving[Any]]":
    """What processes recordings, and where they arrive: in a store if there is a URL, else in a folder."""
    from ..inference.results import Results
    from ..inference.watching import CorpusInbox, Inbox

    if "://" in inbox or "://" in output:
        for package in ("fsspec", "pandas", "pyarrow"):
            import_extra(package, "ray")
        from ..inference.corpora import CorpusResults

        return CorpusWatcher(CorpusResults(output), loaded, log), CorpusInbox(inbox, settle_seconds)
    pipe, treatment, settings = loaded
    results = stack.enter_context(Results(Path(output), settings))
    return FolderWatcher(pipe, results, treatment, log), Inbox(Path(inbox), Path(output), settle_seconds)


A = TypeVar("A", bound="Arrival")


class Watcher(ABC, Generic[A]):
    """Processes recordings that arrive until a signal comes.

    Args:
        log: writes events.

    Attributes:
        done, failed: numbers of recordings that this run has processed.
    """

    def __init__(self, log: "Log"):
        self._log = log
        self.done = self.failed = 0

    def run(self, inbox: "Arriving[A]", interval: float, stop: "StopSignal") -> None:
        """Processes what arrives.

        Args:
            inbox: where recordings arrive.
            interval: time between two looks in seconds.
            stop: ends the run.

        Raises:
            OutputError: nothing more can be written.
        """
        self._tidy()
        problems: set[str] = set()
        while not stop.is_set:
            arrivals = inbox.look()
            for problem in sorted(arrivals.problems - problems):
                self._log("skipped", error=problem)
            problems = arrivals.problems
            self._process(inbox, arrivals.recordings, stop)
            stop.wait(interval)

    @abstractmethod
    def _tidy(self) -> None:
        """Removes what a killed run has left unfinished, and sorts the results."""

    @abstractmethod
    def _process(self, inbox: "Arriving[A]", recordings: list[A], stop: "StopSignal") -> None:
        """Processes the recordings that are not done yet, and takes them from the inbox."""

    def _count(self, record: dict[str, Any], started: float) -> None:
        if "error" in record:
            self.failed += 1
            self._log("failed", file=record["file"], error=record["error"])
        else:
            self.done += 1
            took = round(time.monotonic() - started, 3)
            self._log("done", file=record["file"], seconds=record["seconds"], took_seconds=took)


class FolderWatcher(Watcher["Recording"]):
    """Processes the recordings of a folder.

    Args:
        pipe: the pipeline.
        results: the results, open.
        treatment: how recordings are processed.
        log: writes events.
    """

    def __init__(
        self, pipe: "SpeechEnhancementAndEmotionPipeline", results: "Results", treatment: "Treatment", log: "Log"
    ):
        super().__init__(log)
        self._pipe, self._results, self._treatment = pipe, results, treatment

    def _tidy(self) -> None:
        self._results.sort([])

    def _process(self, inbox: "Arriving[Recording]", recordings: "list[Recording]", stop: "StopSignal") -> None:
        left = []
        for recording in recordings:
            if self._results.is_done(recording, self._treatment.further_files):
                inbox.take(recording)
            else:
                left.append(recording)
        has_older_lines = any(self._results.has_lines(recording) for recording in left)
        for recording in self._results.placed(left):
            if stop.is_set:
                break
            if not recording.is_unchanged:  # gone or changed: a later look decides
                continue
            self._enhance(recording)
            if recording.is_unchanged:
                inbox.take(recording)
        if has_older_lines:
            self._tidy()  # so that each recording has one line

    def _enhance(self, recording: "Recording") -> None:
        from ..inference.batching import enhance_recordings

        started = time.monotonic()
        (record, *_) = enhance_recordings(self._pipe, [recording], results=self._results, **vars(self._treatment))
        self._count(record, started)


class CorpusWatcher(Watcher["Source"]):
    """Processes the recordings at a URL, or those of a folder with results at a URL.

    Args:
        corpus: where results are stored.
        loaded: the pipeline, the treatment and the settings.
        log: writes events.
    """

    def __init__(self, corpus: "CorpusResults", loaded: "Loaded", log: "Log"):
        from ..inference.corpora import CorpusWorker

        super().__init__(log)
        self._corpus, self._worker = corpus, CorpusWorker(corpus, loaded)
        _, self._treatment, self._settings = loaded

    def _tidy(self) -> None:
        self._corpus.finish()

    def _process(self, inbox: "Arriving[Source]", recordings: "list[Source]", stop: "StopSignal") -> None:
        if not recordings:
            return
        left = self._corpus.plan(recordings, self._settings, self._treatment.further_files)
        paths = {source.path for source in left}
        for source in recordings:
            if source.path not in paths:
                inbox.take(source)
        for source in left:
            if stop.is_set:
                break
            if not source.is_unchanged:  # gone or changed: a later look decides
                continue
            started = time.monotonic()
            (row, *_) = self._worker.process([source])
            self._count(json.loads(row["record"]), started)
            if source.is_unchanged:
                inbox.take(source)
        if left:
            self._tidy()


class Log:
    """Writes events as lines of JSON to stdout, without emotions or scores.

    Args:
        is_quiet: write errors only.
    """

    def __init__(self, is_quiet: bool):
        self._is_quiet = is_quiet

    def __call__(self, event: str, **facts: Any) -> None:
        """Writes an event.

        Args:
            event: its name.
            facts: JSON-serializable; an error is a sentence, `error`.
        """
        if not self._is_quiet or "error" in facts:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            typer.echo(json.dumps({"time": now, "event": event, **facts}))


class StopSignal:
    """Notes SIGTERM and SIGINT (Ctrl-C) within a context; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as shells in the background set it for Ctrl-C
                self._handlers[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> None:
        """Waits, at most until a signal comes."""
        end = time.monotonic() + seconds
        while not self.is_set and (rest := end - time.monotonic()) > 0:
            time.sleep(min(NAP_SECONDS, rest))

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        for handled in self._handlers:
            signal.signal(handled, signal.SIG_DFL)
