"""Generator of the reference pages in docs/reference and of the value table in the chart's README."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
CHART = PROJECT / "charts" / "asr-operator"
DOCS = PROJECT / "docs"
