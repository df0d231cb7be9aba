"""A repository that does not transcribe like the checkpoint is not published: each damage is told with its figures."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_builder.audio_set import AudioSet
from model_builder.errors import RejectedError, ServerError
from model_builder.progress import NullReporter
from model_builder.recipe import Recipe
from model_builder.stages import check, gate
from tests.builder.conftest import Built

MODEL = Path("onnx_english_stt/1/model.onnx")


def rewrite_initializers(repository: Path, change: Callable[[str, Any], Any]) -> None:
    """Change weights of the acoustic model in place."""
    import onnx  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    model = onnx.load(repository / MODEL)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        changed = change(tensor.name, array)
        if changed is not None:
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(array.dtype), tensor.name))
    onnx.save(model, repository / MODEL)


def change_weights(repository: Path) -> None:
    """Noise on the weights of the encoder's layers, a tenth of their size."""
    random = np.random.default_rng(0)

    def noisy(name: str, array: Any) -> Any:  # noqa: ANN401
        if name.startswith("frontend/") or array.ndim < 2:
            return None
        return array + random.normal(0, 0.5 * array.std() + 1e-6, array.shape)

    rewrite_initializers(repository, noisy)


def change_the_mel_bank(repository: Path) -> None:
    """Every mel band one place too high."""
    rewrite_initializers(repository, lambda name, array: np.roll(array, 1, axis=0) if name == "frontend/mel" else None)


def shift_the_vocabulary(repository: Path) -> None:
    """Every token one place too late, in both models that decode."""
    for path in repository.rglob("vocabulary.json"):
        content = json.loads(path.read_text())
        content["tokens"] = content["tokens"][-1:] + content["tokens"][:-1]
        path.write_text(json.dumps(content))


def truncate_the_model(repository: Path) -> None:
    """Half of the file."""
    content = (repository / MODEL).read_bytes()
    (repository / MODEL).write_bytes(content[: len(content) // 2])


def judged(built: Built, audio: AudioSet, folder: Path, damage: Callable[[Path], None]) -> dict[str, Any]:
    repository = folder / "repository"
    shutil.copytree(built.work / "repository", repository)
    damage(repository)
    return gate.run(
        repository,
        audio,
        check.load(built.work / "graphs" / "references.json"),
        recipe=Recipe.model_validate(built.report["recipe"]),
        log=folder / "triton.log",
        reporter=NullReporter(),
    )


def test_a_sound_repository_passes(built: Built, check_audio: AudioSet, tmp_path: Path) -> None:
    assert judged(built, check_audio, tmp_path, lambda _: None)["text_agreement"] == 1.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_weights, r"% above the checkpoint's|% of the served tokens agree"),
        (change_the_mel_bank, r"% above the checkpoint's|% of the served tokens agree"),
        (shift_the_vocabulary, r"word error rate is [\d.]+% above the checkpoint's.*NeMo '.*', served '"),
    ],
    ids=["changed weights", "wrong mel bank", "shifted vocabulary"],
)
def test_a_damaged_repository_is_rejected_with_the_figures(
    built: Built, check_audio: AudioSet, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    with pytest.raises(RejectedError, match=message):
        judged(built, check_audio, tmp_path, damage)


def test_a_model_that_does_not_load_is_told_with_the_log(built: Built, check_audio: AudioSet, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="onnx_english_stt"):
        judged(built, check_audio, tmp_path, truncate_the_model)
