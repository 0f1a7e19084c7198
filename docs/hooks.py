# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Takes files of the repository that pages link to, such as results of benchmarks, into the site, and adds notebooks.

`../benchmarks/results/x.md` is such a link. It works in the repository; the site has the file below repository/.
Every page in tutorials/ begins with a link to its notebook.
"""

import posixpath
import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebooks import notebook

ROOT = Path(__file__).parents[1]
FOLDER, TUTORIALS = "repository", "tutorials/"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def outside(page: str, link: str) -> str | None:
    """Returns where a link of docs/PAGE leads in the repository, or None where it stays within docs/."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if target.startswith("docs/") else target


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the linked files, and what they link to in turn, and the notebooks."""
    for page in list(files.documentation_pages()):
        if page.src_uri.startswith(TUTORIALS):
            content = nbformat.writes(notebook(page.content_string))
            files.append(File.generated(config, page.src_uri.replace(".md", ".ipynb"), content=content))
        links = (outside(page.src_uri, link) for link in LINK.findall(page.content_string))
        for target in filter(None, links):
            _add(files, target, config)
    return files


def _add(files: Files, target: str, config: MkDocsConfig) -> None:
    uri = f"{FOLDER}/{target}"
    if files.get_file_from_path(uri) or not (ROOT / target).is_file():
        return
    file = File.generated(config, uri, abs_src_path=str(ROOT / target))
    files.append(file)
    if file.is_documentation_page():
        for link in LINK.findall(file.content_string):
            _add(files, posixpath.normpath(posixpath.join(posixpath.dirname(target), link)), config)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links of pages to the added files, which the search leaves out."""
    uri = page.file.src_uri
    if uri.startswith(f"{FOLDER}/"):
        page.meta["search"] = {"exclude": True}
        return markdown

    def moved(match: re.Match[str]) -> str:
        target = outside(uri, match[1])
        return posixpath.relpath(f"{FOLDER}/{target}", posixpath.dirname(uri) or ".") if target else match[1]

    markdown = LINK.sub(moved, markdown)
    if uri.startswith(TUTORIALS):
        title, _, text = markdown.partition("\n")
        name = posixpath.basename(uri).replace(".md", ".ipynb")
        return f"{title}\n\n[Download this page as a notebook]({name})\n{text}"
    return markdown
