"""What the workflow of a release writes: version, notes, and a chart with the release's images."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tools import release
from tools.testcluster.cluster import PROJECT

DIGEST = "sha256:" + "a" * 64
OPERATOR, BUILDER = f"registry.test/me/asr-operator@{DIGEST}", f"registry.test/me/asr-builder@{DIGEST}"
VALUES = (PROJECT / "charts" / "asr-operator" / "values.yaml").read_text()
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n- later\n\n## [{}] - 2030-01-01\n\n- new\n\n## [0.0.1]\n\n- old\n"


def chart(version: str = release.version()) -> dict[str, str]:
    return {"version": version, "appVersion": version}


def test_a_tag_like_the_version_is_released() -> None:
    changelog = CHANGELOG.format(release.version())
    assert release.disagreements(f"v{release.version()}", chart(), changelog) == []


@pytest.mark.parametrize(
    ("tag", "described", "changelog", "text"),
    [
        ("v9.9.9", chart(), CHANGELOG.format(release.version()), "the tag is v9.9.9"),
        (
            f"v{release.version()}",
            chart("9.9.9"),
            CHANGELOG.format(release.version()),
            "version of Chart.yaml is 9.9.9",
        ),
        (f"v{release.version()}", chart(), "## [Unreleased]\n\n- new\n", "CHANGELOG.md has no entries"),
    ],
)
def test_a_disagreement_is_named(tag: str, described: dict[str, str], changelog: str, text: str) -> None:
    (found,) = release.disagreements(tag, described, changelog)[:1]
    assert text in found


def test_notes_hold_the_changes_of_one_version_alone() -> None:
    assert release.changes(CHANGELOG.format("1.2.3"), "1.2.3") == "- new"


def test_the_changelog_has_unreleased_changes() -> None:
    assert release.changes((PROJECT / "CHANGELOG.md").read_text(), "Unreleased")


def test_the_charts_default_images_are_those_of_the_release() -> None:
    values = yaml.safe_load(release.with_images(VALUES, OPERATOR, BUILDER))
    expected = yaml.safe_load(VALUES)
    for key, reference in (("image", OPERATOR), ("builderImage", BUILDER)):
        expected[key]["repository"], expected[key]["digest"] = reference.split("@")
    assert values == expected


def test_an_image_without_a_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="no repository@sha256"):
        release.with_images(VALUES, "registry.test/asr-operator:1.0.0", BUILDER)


def test_notes_list_the_digests(tmp_path: Path) -> None:
    (tmp_path / "operator").write_text(f"{OPERATOR}\n")
    printed = CliRunner().invoke(release.app, ["notes", "v0.0.0", str(tmp_path / "operator")])
    assert f"- `{OPERATOR}`" in printed.output
