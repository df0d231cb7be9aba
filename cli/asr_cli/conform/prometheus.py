"""Reader of Prometheus' text format, as far as Triton writes it. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LINE = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
LABEL = re.compile(r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)="(?P<value>(?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One value with its labels."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """One page of metrics."""

    samples: Sequence[Sample]

    def total(self, name: str, **labels: str) -> float | None:
        """Sum of a metric over all samples with these labels; None when there is none."""
        values = [
            sample.value
            for sample in self.samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        ]
        return sum(values) if values else None

    def values(self, name: str) -> list[float]:
        """All values of a metric."""
        return [sample.value for sample in self.samples if sample.name == name]


def parse(page: str) -> Metrics:
    """Read a page; lines that are no samples are left out."""
    samples = []
    for line in page.splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        try:
            value = float(found["value"])
        except ValueError:
            continue
        labels = {item["name"]: item["value"] for item in LABEL.finditer(found["labels"] or "")}
        samples.append(Sample(found["name"], labels, value))
    return Metrics(samples)
