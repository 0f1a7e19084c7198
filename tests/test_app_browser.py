# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The page of `sparse-merit app` in Chromium: what a visitor does, on a desktop, on a phone, and by keyboard.

Chromium of the system is used. With the path of `axe.min.js` (npm: axe-core) in SPARSE_MERIT_AXE, the page is also
checked by axe.
"""

import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TINY

from modeling_sparse_merit.app.actions import Actions
from modeling_sparse_merit.app.examples import EXAMPLES
from modeling_sparse_merit.app.limits import Limits
from modeling_sparse_merit.app.models import Models
from modeling_sparse_merit.app.page import HOST, build, options

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = os.environ.get("SPARSE_MERIT_AXE")
WAIT = 240_000  # ms: the machine may be busy
LIMITS = Limits(minutes=6, megabytes=20)
ENHANCE, COMPARE = "Enhance and recognise emotion", "Add noise and compare"
NAMES = """() => [...document.querySelectorAll("button, input, select, textarea, audio, a, summary, [role=listbox]")]
    .filter((each) => each.checkVisibility() && each.getAttribute("aria-hidden") !== "true")
    .filter((each) => !(each.ariaLabel || each.labels?.length || each.textContent.trim() || each.title
        || document.getElementById(each.getAttribute("aria-labelledby"))))
    .map((each) => each.outerHTML.slice(0, 200))"""
"""Controls without a name."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this system (apt-get install chromium)")


@contextmanager
def serving(folder):
    """The page with the embedded checkpoint `tiny`, on loopback; its files are in a folder."""
    pytest.importorskip("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        page = build(Actions(Models(TINY, "cpu"), LIMITS, folder))
        _, url, _ = page.launch(server_name=HOST, prevent_thread_lock=True, **options(folder, LIMITS))
        yield url
        page.close(verbose=False)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("page")) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    ]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address):
    """`with visit(width=1280) as page:` opens the page; afterwards there must be no errors and no foreign requests."""

    @contextmanager
    def opened(width=1280, height=900, **settings):
        context = browser.new_context(
            viewport={"width": width, "height": height}, permissions=["microphone"], **settings
        )
        page, errors, requests = context.new_page(), [], []
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.get_by_role("button", name=ENHANCE).wait_for()
        yield page
        context.close()
        assert errors == []
        assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []

    return opened


def upload(page, path):
    page.locator("input[type=file]").first.set_input_files(path)
    page.locator(".sm-chosen", has_text=Path(path).name).wait_for()


def results(page):
    """Waits for results; returns what a screen reader is told."""
    page.locator("#sm-results .sm-players").wait_for()
    return page.locator("#sm-results .sm-summary").inner_text()


def time_of(page, number):
    return page.evaluate(f"document.getElementById('sm-audio-{number}').currentTime")


def is_playing(page, number):
    return not page.evaluate(f"document.getElementById('sm-audio-{number}').paused")


def has_no_horizontal_scrolling(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_visitor_uploads_a_file_plays_it_and_reads_the_result(visit, tmp_path):
    with visit() as page:
        upload(page, EXAMPLES[2].path)
        page.get_by_role("button", name=ENHANCE).click()
        summary = results(page)
        scores = page.locator(".sm-scores tbody tr").all_inner_texts()
        assert len(scores) == 4 and sum(int(row.split()[-1].rstrip("%")) for row in scores) in range(98, 103)
        assert scores[0].split()[0] in summary and "24.3 s" in summary

        page.evaluate("document.getElementById('sm-audio-0').play()")
        page.wait_for_function("document.getElementById('sm-audio-0').currentTime > 0.2")
        page.evaluate("document.getElementById('sm-audio-1').play()")
        page.wait_for_function("document.getElementById('sm-audio-1').currentTime > 0.2")
        assert not is_playing(page, 0)  # one player at a time

        segment = page.locator(".sm-segments button").nth(1)
        start, end = (float(segment.get_attribute(name)) for name in ("data-start", "data-end"))
        segment.click()
        page.wait_for_function(f"document.getElementById('sm-audio-1').currentTime > {start}")
        assert start <= time_of(page, 1) <= end + 1
        page.wait_for_function("document.getElementById('sm-audio-1').paused")
        assert time_of(page, 1) == pytest.approx(end, abs=1)

        with page.expect_download() as download:
            page.get_by_role("link", name="Download the results (JSON)").click()
        record = json.loads(Path(download.value.path()).read_text())
        assert record["file"] == "three_voices.ogg" and record["emotion"] in summary
        with page.expect_download() as download:
            page.get_by_role("link", name="Download the enhanced file (WAV)").click()
        assert download.value.suggested_filename == "three_voices.enhanced.wav"
        assert soundfile.info(download.value.path()).duration == pytest.approx(24.3, abs=0.1)
        assert page.evaluate(NAMES) == []


def test_a_visitor_adds_noise(visit):
    with visit() as page:
        page.get_by_role("button", name="Clean sentence").click()
        results(page)
        page.get_by_label("Noise", exact=True).click()
        page.get_by_role("option", name="Voices").click()
        page.get_by_role("spinbutton").fill("-5")
        page.get_by_role("spinbutton").press("Enter")
        page.get_by_role("button", name=COMPARE).click()
        page.get_by_role("heading", name="clean_speech (Voices, -5 dB).wav").wait_for()
        assert "The emotion" in page.locator("#sm-results .sm-summary").inner_text()
        titles = page.locator(".sm-player h3").all_inner_texts()
        assert titles == ["Clean", "Voices, -5 dB", "Enhanced"]
        assert page.locator(".sm-scores thead th").all_inner_texts() == ["Emotion", "Clean", "With noise"]


def test_a_visitor_chooses_a_model_without_emotions(visit):
    with visit() as page:
        assert "cc-by-nc-sa-4.0, not for commercial use" in page.locator("body").inner_text()
        page.get_by_label("Model").click()
        page.get_by_role("option", name="enhance_free").click()
        page.get_by_text("Licence of the weights: cc-by-4.0").wait_for()
        page.get_by_role("button", name="Clean sentence").click()
        assert "enhanced" in results(page)
        assert page.locator(".sm-player").count() == 2 and page.locator(".sm-scores").count() == 0


def test_a_visitor_is_told_what_is_wrong_with_a_file(visit, tmp_path):
    bad, long = tmp_path / "notes.wav", tmp_path / "long.wav"
    bad.write_bytes(np.random.default_rng(0).bytes(20_000))
    soundfile.write(long, np.zeros(8_000 * 60 * 7), 8_000)
    with visit() as page:
        page.get_by_role("button", name=ENHANCE).click()
        page.get_by_role("alert").filter(has_text="No recording is chosen").wait_for()
        for path, message in ((bad, "Cannot decode notes.wav"), (long, "long.wav lasts more than 6 minutes")):
            upload(page, path)
            page.get_by_role("button", name=ENHANCE).click()
            page.get_by_role("alert").filter(has_text=message).wait_for()
            page.get_by_label("Clear").or_(page.get_by_label("Remove")).first.click()
        large = tmp_path / "large.wav"
        large.write_bytes(bytes(21_000_000))
        page.locator("input[type=file]").first.set_input_files(large)
        page.get_by_text("maximum allowed size").first.wait_for()
        assert "up to 6 minutes and 20 MB" in page.locator(".sm-about").inner_text()


def test_a_visitor_records(visit):
    with visit() as page:
        page.get_by_role("tab", name="Record").click()
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_timeout(2_000)
        page.get_by_role("button", name="Stop", exact=True).first.click()
        page.locator(".sm-chosen", has_text="microphone.wav").wait_for()
        page.get_by_role("button", name=ENHANCE).click()
        results(page)


def test_the_page_fits_a_phone_and_works_by_keyboard(visit):
    with visit(390, 844, color_scheme="dark", has_touch=True) as page:
        assert has_no_horizontal_scrolling(page)
        page.get_by_role("button", name="Three voices").focus()
        page.keyboard.press("Enter")
        results(page)
        assert has_no_horizontal_scrolling(page)
        assert page.locator("#sm-results").bounding_box()["y"] < 844  # the page has scrolled to the results
        assert page.evaluate("document.body.classList.contains('dark')")

        first = page.locator(".sm-segments button").first
        first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        start = float(page.locator(".sm-segments button").nth(1).get_attribute("data-start"))
        page.wait_for_function(f"document.getElementById('sm-audio-1').currentTime > {start}")
        assert page.locator(".sm-segments [tabindex='0']").count() == 1
        assert page.locator("#sm-status").inner_text() == page.locator("#sm-results .sm-summary").text_content()


@pytest.mark.slow
def test_files_of_visitors_are_deleted_in_time(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_sparse_merit.app.page.KEPT_S", 30)
    monkeypatch.setattr("modeling_sparse_merit.app.page.CLEANING_S", 1)
    with serving(tmp_path) as url, browser.new_page() as page:
        page.set_default_timeout(WAIT)
        page.goto(url)
        upload(page, EXAMPLES[1].path)
        page.get_by_role("button", name=ENHANCE).click()
        results(page)
        assert len(list(tmp_path.glob("*/player-*.flac"))) == 2
        end = time.monotonic() + 120
        while any(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()):
            assert time.monotonic() < end, "files are left"
            page.wait_for_timeout(500)


@pytest.mark.slow
def test_a_file_of_five_minutes_shows_progress_and_can_be_stopped(visit, tmp_path):
    speech, rate = soundfile.read(EXAMPLES[2].path)
    soundfile.write(tmp_path / "meeting.flac", np.resize(speech, 300 * rate), rate)
    with visit() as page:
        upload(page, tmp_path / "meeting.flac")
        page.get_by_role("button", name=ENHANCE).click()
        bar = page.locator("#sm-results progress[max='300.0']")
        bar.wait_for()
        first = float(bar.get_attribute("value"))
        page.wait_for_function(f"document.querySelector('#sm-results progress')?.value > {first}")
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("heading", name="Results").wait_for()
        page.get_by_role("button", name=ENHANCE).click()
        assert "300.0 s" in results(page)
        assert page.locator(".sm-segments button").count() > 30
        page.locator(".sm-segments button").last.click()
        page.wait_for_function("document.getElementById('sm-audio-1').currentTime > 280")


@pytest.mark.skipif(AXE is None, reason="SPARSE_MERIT_AXE is not set to the path of axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, scheme):
    with visit(color_scheme=scheme) as page:
        page.get_by_role("button", name="Three voices").click()
        results(page)
        page.evaluate(f"{Path(AXE).read_text(encoding='utf-8')};0")
        report = page.evaluate("axe.run({resultTypes: ['violations']})")
        violations = {each["id"]: [node["html"][:200] for node in each["nodes"]] for each in report["violations"]}
        assert violations == {}
