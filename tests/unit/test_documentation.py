"""README, docs/ and the chart's README: valid, complete, up to date, and in plain English."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from markdown.extensions.toc import slugify

from asr_contract import errors
from asr_operator import check
from asr_operator.conditions import ORDER
from model_builder import cli as builder
from tools.reference.__main__ import PAGES
from tools.testcluster.cluster import PROJECT

CHART = PROJECT / "charts" / "asr-operator"
DOCS = PROJECT / "docs"
README = PROJECT / "README.md"
BESIDE = ("charts/asr-operator", "model_builder/check_audio", "tools/testcluster", "demo")
PUBLISHED = sorted((*PROJECT.glob("*.md"), *DOCS.rglob("*.md"), *(PROJECT / folder / "README.md" for folder in BESIDE)))
"""Pages for users and contributors."""
MOST_LINES = 200
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]

AVOIDED = re.compile(
    r"\b(told|tells?|mend(s|ed|ing)?|anew|acted|hindered|gets? well|gets? on|goes before|go before|look(s|ed)? after|"
    r"puts? up with|roll-outs?|of (its|their|your|our) own|brought|brings?|the way in|laid over|lay over|held to|"
    r"in vain|gets? through|got through|for company|somebody|whoever|nobody|the gate|heard|yield(s|ed)?|"
    r"frontend|front end|hopes?)\b",
    re.IGNORECASE,
)
"""Words of a former private style, most of which have a standard term: see docs/development.md."""


def name(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def without_code(path: Path) -> str:
    blocks = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "", blocks)


def prose(path: Path) -> str:
    """Text without code and without the targets of links."""
    return re.sub(r"\]\([^)]*\)", "", without_code(path))


def comments(path: Path) -> str:
    """Comments of a YAML file, and the text of a template."""
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if path.suffix == ".txt" or line.lstrip().startswith("#"))


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", PUBLISHED, ids=name)
def test_manifests_in_it_are_valid(path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", path.read_text(), flags=re.DOTALL)
    manifests = [item for block in blocks for _, item in check.documents(block)]
    assert [check.check(manifest) for manifest in manifests] == [[]] * len(manifests)


@pytest.mark.parametrize("path", [README, DOCS / "quickstart.md"], ids=name)
def test_a_first_manifest_is_in_it(path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", path.read_text(), flags=re.DOTALL)
    assert len(list(check.documents(block))) == 1


@pytest.mark.parametrize("condition", ORDER)
def test_the_concepts_explain_each_condition(condition: str) -> None:
    assert f"| `{condition}` |" in (DOCS / "concepts.md").read_text()


@pytest.mark.parametrize("path", PUBLISHED, ids=name)
def test_links_in_it_lead_to_files_and_headings(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path)):
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        if "://" in target or target.startswith("mailto:"):
            continue
        headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE) if anchor and page.is_file() else []
        if not page.exists() or (anchor and anchor not in {slugify(heading, "-") for heading in headings}):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_generated_page_is_up_to_date(path: Path) -> None:
    assert path.read_text() == PAGES[path](), "run: python -m tools.reference"


def test_the_help_of_the_builder_lists_the_exit_code_of_every_error() -> None:
    listed = set(map(int, re.findall(r"\b\d+\b", str(builder.app.info.help).partition("Exit codes:")[2])))
    codes = {item.exit_code for item in vars(errors).values() if isinstance(item, type) and hasattr(item, "exit_code")}
    assert codes - {errors.BuilderError.exit_code} <= listed


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    assert _built(PROJECT / "mkdocs.yml", tmp_path) == ""
    assert (tmp_path / "reference" / "api" / "index.html").is_file()
    assert (tmp_path / "project" / "examples" / "kubectl" / "gpu.yaml").is_file()


@pytest.mark.parametrize("link", ["../missing.json", "../missing.md", "missing.md", "index.md#missing"])
def test_a_broken_link_stops_the_site(tmp_path: Path, link: str) -> None:
    settings = yaml.safe_load((PROJECT / "mkdocs.yml").read_text())
    kept = {key: settings[key] for key in ("site_name", "strict", "validation")}
    hook = str(PROJECT / "tools" / "site.py")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(kept | {"theme": "mkdocs", "hooks": [hook]}))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n[link]({link})\n")
    assert link in _built(tmp_path / "mkdocs.yml", tmp_path / "site")


def _built(configuration: Path, site: Path) -> str:
    """The warnings of mkdocs, and its last line if it failed."""
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(configuration), "-d", str(site)]
    result = subprocess.run(command, env={"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    return "\n".join([line for line in lines if line.startswith("WARNING")] + (lines[-1:] if result.returncode else []))


@pytest.mark.parametrize("path", PUBLISHED, ids=name)
def test_page_avoids_the_words_of_the_list(path: Path) -> None:
    assert [match[0] for match in AVOIDED.finditer(prose(path))] == []


@pytest.mark.parametrize("path", [CHART / "values.yaml", CHART / "templates" / "NOTES.txt"], ids=name)
def test_comments_of_the_chart_avoid_the_words_of_the_list(path: Path) -> None:
    assert [match[0] for match in AVOIDED.finditer(comments(path))] == []


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


@pytest.mark.parametrize("path", PUBLISHED, ids=name)
def test_image_tags_in_it_are_of_this_version(path: Path) -> None:
    assert set(re.findall(r"asr-(?:operator|builder):([\d.]+\d)", path.read_text())) <= {VERSION}
