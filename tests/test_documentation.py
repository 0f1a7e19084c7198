# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""README.md and docs/: length, links, navigation, reasons. `make docs` and `make test-docs` check the rest."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
AT_THE_TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def headings(page: Path) -> set[str]:
    """The anchors of a page: its headings in lower case, hyphens for spaces, no punctuation."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_readme_is_short():
    assert len(AT_THE_TOP[0].read_text(encoding="utf-8").splitlines()) <= 180


@pytest.mark.parametrize("page", AT_THE_TOP, ids=lambda page: page.name)
def test_links_of_the_files_at_the_top_lead_somewhere(page):
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = ROOT / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", [AT_THE_TOP[0], *PAGES], ids=lambda page: page.name)
def test_a_block_that_does_not_run_says_why(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("skip:") == len(re.findall(r'^<!-- skip: next "\w[^"]+" -->\n```', text, re.MULTILINE))


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert [page for page in PAGES if f" {page.relative_to(ROOT / 'docs').as_posix()}\n" not in navigation] == []
