"""Files of the model repository: configurations, the Python models with their package, the acoustic model."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asr_serving
from asr_contract.artifact import ModelFacts
from asr_contract.recipe import Frontend, Recipe
from asr_serving.audio import Limits
from asr_serving.batching import Grid, Shape
from asr_serving.settings import Settings
from asr_serving.tensors import SAMPLE_RATE, model_names
from asr_serving.text import Vocabulary
from model_builder.repository.config import PLAN_FILE, Served, acoustic_roles, model_configs, to_text

VERSION = "1"
SHORTEST_SECONDS = 1.0
STEP_RATIO = 1.15
"""Each shape is this much longer than the one before: at most an eighth of a batch is padding for the shape's sake."""
MIN_FILL = 0.8
"""Utterances down to this share of the padded length join a batch; a lower share means larger batches, more padding."""
IN_FLIGHT = 2
"""One batch is computed while the next is being prepared."""
MAX_PENDING = 1024
REFERENCES = "references.json"
"""Beside the models' folders; Triton looks at folders only."""

MODEL_PY = '''"""Entry point for Triton; the code is in the package beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from asr_serving.{module} import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
'''


def grid_for(recipe: Recipe) -> Grid:
    """Shapes from one second to the longest audio. ONNX Runtime takes any; equal ones let ensembles batch."""
    longest = recipe.max_audio_seconds * SAMPLE_RATE
    lengths = []
    length = SHORTEST_SECONDS * SAMPLE_RATE
    while length < longest:
        lengths.append(round(length / 160) * 160)
        length *= STEP_RATIO
    return Grid(tuple(Shape(samples, recipe.max_batch_size) for samples in (*lengths, longest)), MIN_FILL)


def served_by_onnx(recipe: Recipe) -> Served:
    """How the acoustic model runs without a plan."""
    return Served(grid_for(recipe))


def write(
    folder: Path,
    recipe: Recipe,
    *,
    models: Mapping[str, Path],
    served: Served,
    vocabulary: Vocabulary,
    facts: ModelFacts,
    references: Path,
) -> None:
    """Write the whole repository into the empty folder `folder`.

    Args:
        folder: Where to.
        recipe: What is built.
        models: The acoustic models by role: `onnx`, `tensorrt`.
        served: How they run.
        vocabulary: Of the checkpoint.
        facts: Of the checkpoint.
        references: NeMo's own transcripts of the check audio: a plan built later is held to them too.
    """
    names = model_names(recipe.model_name)
    shutil.copyfile(references, folder / REFERENCES)
    settings = Settings(
        acoustic_model=names[acoustic_roles(recipe)[-1]],
        frontend=recipe.frontend,
        limits=Limits(recipe.max_audio_seconds * SAMPLE_RATE),
        grid=served.grid,
        in_flight=max(IN_FLIGHT, served.instances + 1),
        max_pending=MAX_PENDING,
    )
    configs = model_configs(
        recipe,
        served=served,
        features=facts.features,
        classes=len(vocabulary.tokens) + 1,
        hop=facts.hop,
    )
    for name, config in configs.items():
        version = folder / name / VERSION
        version.mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
        if config.platform == "ensemble":
            # Triton wants a version folder; object storage and the manifest keep files only.
            (version / ".keep").write_text("")
    for role, model in models.items():
        file = "model.onnx" if role == "onnx" else PLAN_FILE
        shutil.copyfile(model, folder / names[role] / VERSION / file)
    for role in ("preprocessing", "postprocessing", "scheduler"):
        version = folder / names[role] / VERSION
        (version / "model.py").write_text(MODEL_PY.format(module=role), encoding="utf-8")
        _copy_package(version / "asr_serving")
        if role != "postprocessing":
            settings.save(version)
            if recipe.frontend is Frontend.NEMO:
                _write_json(version / "preprocessor.json", facts.preprocessor)
        if role != "preprocessing":
            vocabulary.save(version / "vocabulary.json")


def _copy_package(target: Path) -> None:
    target.mkdir()
    for file in sorted(Path(asr_serving.__file__).parent.glob("*.py")):
        shutil.copyfile(file, target / file.name)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    import json  # noqa: PLC0415

    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
