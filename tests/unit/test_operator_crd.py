"""The CRD that the chart installs is the one that the models make."""

from pathlib import Path

from asr_operator import crd

PROJECT = Path(__file__).parents[2]


def test_the_charts_crd_is_that_of_the_models() -> None:
    """If not: python -m asr_operator crd > charts/asr-operator/files/crd.yaml"""
    assert (PROJECT / "charts/asr-operator/files/crd.yaml").read_text() == crd.to_yaml()


def test_the_folder_operator_is_not_a_package() -> None:
    assert not (PROJECT / "operator" / "__init__.py").exists(), "it would shadow the standard library's operator"


def test_no_name_of_ours_is_written_but_in_one_place() -> None:
    folder = PROJECT / "operator" / "asr_operator"
    found = [
        path.name
        for path in folder.rglob("*.py")
        if path.name not in {"names.py", "base.py", "v1alpha1.py"} and '"asr-operator.dev' in path.read_text()
    ]
    assert found == []
