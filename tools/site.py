"""A hook of mkdocs: files of the project that the pages link to become part of the site, below `project/`.

So a link such as `../examples/kubectl/gpu.yaml` works both on the site and in a view of the repository. mkdocs reports
a link to a file that does not exist.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s:]+)(?=[)#])")
PREFIX = "project/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the linked files, and those that they link to."""
    project, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    waiting = [docs / file.src_uri for file in files.documentation_pages()]
    known = set(waiting)
    while waiting:
        page = waiting.pop()
        for target in _targets(page):
            if target not in known and target.is_file() and project in target.parents and docs not in target.parents:
                known.add(target)
                uri = PREFIX + target.relative_to(project).as_posix()
                files.append(File.generated(config, uri, abs_src_path=str(target)))
                if target.suffix == ".md":
                    waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the places that files have in the site."""
    project, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    place = page.file.src_uri
    source = project / place.removeprefix(PREFIX) if place.startswith(PREFIX) else docs / place

    def moved(match: re.Match[str]) -> str:
        target = _resolved(source, match["path"])
        if docs in target.parents:
            uri = target.relative_to(docs).as_posix()
        elif project in target.parents:
            uri = PREFIX + target.relative_to(project).as_posix()
        else:
            return match["path"]
        return posixpath.relpath(uri, posixpath.dirname(place)) if files.get_file_from_path(uri) else match["path"]

    return LINK.sub(moved, markdown)


def _targets(page: Path) -> Iterator[Path]:
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        yield _resolved(page, match["path"])


def _resolved(page: Path, path: str) -> Path:
    return Path(os.path.normpath(page.parent / path))
