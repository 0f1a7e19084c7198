# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The controls of the page, and the server that shows it."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from .. import LAWFUL_USE
from ..extras import import_extra
from ..files import OutputError, one_line
from .actions import CHANNELS, Actions, Steps, remove_folder
from .analysis import Source
from .examples import EXAMPLES, Example
from .limits import Limits
from .models import Models
from .noise import NOISES, SNR_DB
from .results import error_html, progress_html

HOST = "127.0.0.1"
KEPT_S, CLEANING_S = 3_000, 600  # seconds that files of visitors are kept, and between deletions: an hour together
WAITING = 20  # visitors who may wait for the model
FOLDER = Path(__file__).parent
HEADER = (
    "<h1>Sparse MERIT</h1><p>Enhances a noisy recording and recognises the emotion of its speech, in one pass.</p>"
    '<div id="sm-status" role="status" class="sm-hidden"></div>'
)
NOTHING_YET = "<h2>Results</h2><p>Choose a recording, then enhance it.</p>"
LOADING = '<p class="sm-progress">Loading the model</p>'
NOTHING_CHOSEN = "No recording is chosen. Upload a file, record one, or take an example."


def serve(
    model: str | os.PathLike | None = None,
    device: str | None = None,
    limits: Limits | None = None,
    host: str | None = HOST,
    port: int | None = None,
    is_local: bool = True,
    started: Callable[[str], object] = print,
) -> None:
    """Shows the page until the process is interrupted or terminated. Then all files of visitors are deleted.

    Args:
        model: the model that is chosen at first: name, folder or Hub id; by default the default checkpoint.
        device: torch device; None is the fastest available.
        limits: size and duration that are accepted; those of `Limits` by default.
        host: address to bind to; None is that of the environment (GRADIO_SERVER_NAME), as on a Space.
        port: port; None is the first free one from 7860.
        is_local: whether the visitor sits at this computer, so that recordings stay on it.
        started: called with the address of the page.

    Raises:
        ImportError: Gradio or matplotlib is not installed.
        OSError: the port is taken, or the checkpoint does not exist.
    """
    limits = limits or Limits()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # by exceptions, so that the folder is deleted
    with tempfile.TemporaryDirectory(prefix="sparse-merit-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of uploads
        page = build(Actions(Models(model, device), limits, Path(folder)), is_local)
        _, url, _ = page.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, **options(folder, limits)
        )
        started(url)
        page.block_thread()


def options(folder: str | os.PathLike, limits: Limits) -> dict[str, Any]:
    """Options of `gradio.Blocks.launch`: nothing is loaded from other hosts, and only `folder` is served.

    Args:
        folder: where results are written.
        limits: size and duration that are accepted.
    """
    return {
        "allowed_paths": [str(folder)],
        "css_paths": FOLDER / "page.css",
        "footer_links": [],
        "head": f"<script>{(FOLDER / 'page.js').read_text(encoding='utf-8')}</script>",
        "max_file_size": f"{limits.megabytes}mb",
        "quiet": True,
        "run_history": False,
        "share": False,
        "show_error": True,
        "ssr_mode": False,
        "theme": _theme(),
    }


def _theme() -> Any:
    """Fonts of the system, and colours whose contrast is at least 4.5 to 1 in light and dark."""
    themes = import_extra("gradio", "app").themes
    texts = ("body_text_color_subdued", "block_label_text_color", "block_title_text_color", "block_info_text_color")
    colours = {name: "#4b5563" for name in (*texts, "input_placeholder_color")}
    colours |= {f"{name}_dark": "#c3c9d2" for name in colours}
    button = {"background_fill": "#1d5f91", "background_fill_hover": "#174c75", "text_color": "#ffffff"}
    colours |= {f"button_primary_{name}{mode}": value for name, value in button.items() for mode in ("", "_dark")}
    colours |= {"color_accent": "#1d5f91", "slider_color": "#1d5f91", "slider_color_dark": "#7dd3fc"}
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    named = {kind: [themes.Font(name) for name in names] for kind, names in fonts.items()}
    return themes.Default(primary_hue="sky", **named).set(**colours)


def build(actions: Actions, is_local: bool = True) -> Any:
    """Builds the page, a `gradio.Blocks`.

    Args:
        actions: what the page does.
        is_local: whether recordings stay on the computer of the visitor.

    Raises:
        ImportError: Gradio or matplotlib is not installed.
    """
    gr = import_extra("gradio", "app")
    import_extra("matplotlib", "app")
    with gr.Blocks(title="Sparse MERIT", analytics_enabled=False, delete_cache=(CLEANING_S, KEPT_S)) as page:
        source = gr.State(None, time_to_live=KEPT_S)
        folder = gr.State(None, time_to_live=KEPT_S, delete_callback=remove_folder)
        gr.HTML(HEADER, elem_classes="sm-page")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                chosen = _add_recording(gr, source, actions.limits)
                examples = [gr.Button(example.title, size="sm") for example in EXAMPLES]
                settings = _add_settings(gr, actions.models)
                enhance = gr.Button("Enhance and recognise emotion", variant="primary")
                noise_test = _add_noise_test(gr)
                compare = gr.Button("Add noise and compare")
            with gr.Column(scale=3, min_width=300):
                stop = gr.Button("Stop", size="sm", visible=False)
                results = gr.HTML(NOTHING_YET, elem_classes="sm-page", elem_id="sm-results")
        gr.HTML(about_html(actions.limits, is_local), elem_classes="sm-page")

        outputs = [results, folder, stop]
        common = {"outputs": outputs, "concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        run = [source, folder, *settings]
        events = [enhance.click(_handler(gr, actions, actions.enhance), run, **common)]
        events.append(compare.click(_handler(gr, actions, actions.compare), [*run, *noise_test], **common))
        for button, example in zip(examples, EXAMPLES, strict=True):
            choice = button.click(_chooser(example), None, [source, chosen], api_visibility="private")
            events.append(choice.then(_handler(gr, actions, actions.enhance), run, **common))
        stop.click(lambda: (NOTHING_YET, gr.update(visible=False)), None, [results, stop], cancels=events)
    return page.queue(max_size=WAITING)


def _add_recording(gr: Any, source: Any, limits: Limits) -> Any:
    """Adds upload and microphone, which fill `source`; returns the line that names the chosen recording."""
    with gr.Tabs():
        with gr.Tab("Upload"):
            upload = gr.File(label=f"Audio file, {limits.text}", height=160)
        with gr.Tab("Record"):
            microphone = gr.Audio(label="Microphone", sources=["microphone"], type="filepath", format="wav")
    chosen = gr.HTML(chosen_html(None), elem_classes="sm-page")
    outputs = [source, chosen]
    upload.upload(lambda path: choose(Path(path)), upload, outputs, api_visibility="private")
    microphone.stop_recording(
        lambda path: choose(Path(path), "microphone.wav"), microphone, outputs, api_visibility="private"
    )
    for component in (upload, microphone):
        component.clear(lambda: (None, chosen_html(None)), None, outputs, api_visibility="private")
    gr.HTML('<p class="sm-note">Or an example, spoken by synthetic voices:</p>', elem_classes="sm-page")
    return chosen


def _add_settings(gr: Any, models: Models) -> list[Any]:
    """Adds the pickers of model and channel."""
    model = gr.Dropdown(models.names, label="Model", info=licence_text(models, models.names[0]), filterable=False)
    model.change(lambda name: gr.update(info=licence_text(models, name)), model, model, api_visibility="private")
    return [model, gr.Dropdown(list(CHANNELS), label="Channel", filterable=False)]


def _add_noise_test(gr: Any) -> list[Any]:
    """Adds the controls of the noise test."""
    gr.HTML(
        '<h2>Noise test</h2><p class="sm-note">Adds noise to a clean recording. Does the emotion hold?</p>',
        elem_classes="sm-page",
    )
    noise = gr.Dropdown(list(NOISES), label="Noise", filterable=False)
    return [noise, gr.Slider(*SNR_DB, value=0, step=1, label="Signal-to-noise ratio (dB)")]


def _chooser(example: Example) -> Callable[[], tuple[Source, str]]:
    return lambda: choose(example.path)


def _handler(gr: Any, actions: Actions, action: Callable[..., Steps]) -> Callable[..., Iterator[tuple]]:
    """The function of an event: runs an action, and yields results, their folder, and whether it can be stopped."""

    def handle(source: Source | None, old: Path | None, *settings: Any) -> Iterator[tuple]:
        if source is None:
            yield error_html(NOTHING_CHOSEN), old, gr.skip()
            return
        folder, html = actions.new_folder(), None
        try:
            yield LOADING, old, gr.update(visible=True)
            steps = action(source, folder, *settings)
            while html is None:
                try:
                    progress = next(steps)
                    yield progress_html(progress.done, progress.total), old, gr.skip()
                except StopIteration as end:
                    html = end.value
                except (OSError, ValueError, RuntimeError, OutputError) as error:
                    yield error_html(one_line(error)), old, gr.update(visible=False)
                    return
            yield html, folder, gr.update(visible=False)
        finally:
            remove_folder(folder if html is None else old)

    return handle


def choose(path: Path, name: str | None = None) -> tuple[Source, str]:
    """Makes a file the chosen recording.

    Args:
        path: the file.
        name: its name on the page; that of the file by default.

    Returns:
        the recording, and the line that names it.
    """
    source = Source(path, name or path.name)
    return source, chosen_html(source)


def chosen_html(source: Source | None) -> str:
    """The line that names the chosen recording."""
    name = "none" if source is None else f"<strong>{escape(source.name)}</strong>"
    return f'<p class="sm-chosen" role="status">Recording: {name}</p>'


def licence_text(models: Models, name: str) -> str:
    """The licence of a model, next to its picker.

    Args:
        models: the models.
        name: one of them.
    """
    licence = models.licence(name)
    if licence is None:
        return "See the card of the model for its licence."
    return f"Licence of the weights: {licence}" + (", not for commercial use" if "-nc" in licence.lower() else "")


def about_html(limits: Limits, is_local: bool) -> str:
    """Limits, privacy and lawful use.

    Args:
        limits: what is accepted.
        is_local: whether recordings stay on the computer of the visitor.
    """
    privacy = (
        "Recordings stay on this computer; the page is reachable from it alone, and loads nothing from the network."
        if is_local
        else "Recordings are processed on the server of this page."
    )
    kept = f"Files are deleted within {(KEPT_S + CLEANING_S) // 60} minutes, and when the server ends."
    texts = {"Limits": f"One recording, {limits.text}.", "Privacy": f"{privacy} {kept}", "Lawful use": LAWFUL_USE}
    parts = "".join(f"<p><strong>{name}.</strong> {text}</p>" for name, text in texts.items())
    return f'<footer class="sm-about">{parts}</footer>'
