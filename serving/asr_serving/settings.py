"""What the builder tells the Python models: one JSON file beside each `model.py`."""

import json
from dataclasses import dataclass
from pathlib import Path

from asr_serving.audio import Limits
from asr_serving.batching import Grid, Shape

FILE = "settings.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and shapes of this build.

    Attributes:
        acoustic_model: The model that the scheduler calls.
        frontend: `Numpy` (audio goes to the acoustic model) or `NeMo` (features do).
        limits: The longest audio that is served.
        grid: Padded shapes.
        in_flight: Batches that the scheduler keeps at the acoustic model at once.
        max_pending: Utterances that may wait in the scheduler before Triton's own queue fills.
    """

    acoustic_model: str
    frontend: str
    limits: Limits
    grid: Grid
    in_flight: int
    max_pending: int

    def save(self, folder: Path) -> None:
        """Write `settings.json` into `folder`."""
        content = {
            "acoustic_model": self.acoustic_model,
            "frontend": self.frontend,
            "max_samples": self.limits.max_samples,
            "min_fill": self.grid.min_fill,
            "shapes": [[shape.samples, shape.batch, shape.milliseconds] for shape in self.grid.shapes],
            "in_flight": self.in_flight,
            "max_pending": self.max_pending,
        }
        (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Settings":
        """Read what `save` wrote."""
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(
            acoustic_model=content["acoustic_model"],
            frontend=content["frontend"],
            limits=Limits(content["max_samples"]),
            grid=Grid(tuple(Shape(*shape) for shape in content["shapes"]), content["min_fill"]),
            in_flight=content["in_flight"],
            max_pending=content["max_pending"],
        )
