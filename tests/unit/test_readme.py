"""What the README tells users to write is right."""

import re

import pytest
import yaml

from asr_operator import check
from asr_operator.conditions import ORDER
from tests.cluster.cluster import PROJECT

README = (PROJECT / "README.md").read_text()


def test_its_manifests_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    found = [item for block in blocks for _, item in check.documents(block)]
    assert found
    assert [check.check(manifest) for manifest in found] == [[]] * len(found)


@pytest.mark.parametrize("condition", ORDER)
def test_it_says_what_a_condition_means(condition: str) -> None:
    assert f"| `{condition}` |" in README


def test_files_that_it_links_to_are_there() -> None:
    linked = {path for path in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in path}
    assert [path for path in sorted(linked) if not (PROJECT / path).exists()] == []


def test_the_charts_version_is_that_of_the_package() -> None:
    chart = yaml.safe_load((PROJECT / "charts" / "asr-operator" / "Chart.yaml").read_text())
    assert f'\nversion = "{chart["appVersion"]}"\n' in (PROJECT / "pyproject.toml").read_text()
