"""Damages to an exported model, each of which the acceptance test must find."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
    rewrite_initializers(repository, lambda name, array: np.roll(array, 1, axis=1) if name == "frontend/mel" else None)


def shift_the_vocabulary(repository: Path) -> None:
    """Every token one place too late, in both models that decode."""
    for path in repository.rglob("vocabulary.json"):
        content = json.loads(path.read_text())
        content["tokens"] = content["tokens"][-1:] + content["tokens"][:-1]
        path.write_text(json.dumps(content))


def middle_matrix(repository: Path) -> str:
    """Name of one square weight matrix in the middle of the encoder: a query's."""
    import onnx  # noqa: PLC0415

    weights = onnx.load(repository / MODEL).graph.initializer
    square = [tensor.name for tensor in weights if len(tensor.dims) == 2 and tensor.dims[0] == tensor.dims[1]]
    return str(square[len(square) // 2])


def scale_one_matrix(factor: float) -> Callable[[Path], None]:
    """A damage: one weight matrix times `factor`."""

    def damage(repository: Path) -> None:
        victim = middle_matrix(repository)
        rewrite_initializers(repository, lambda name, array: array * factor if name == victim else None)

    return damage


def clear_one_row(repository: Path) -> None:
    """One row of one weight matrix."""
    victim = middle_matrix(repository)
    rewrite_initializers(
        repository,
        lambda name, array: np.concatenate([array[:1] * 0, array[1:]]) if name == victim else None,
    )


def change_frontend(tensor: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """A damage: a constant of the mel graph."""
    return lambda repository: rewrite_initializers(
        repository, lambda name, array: change(array) if name == f"frontend/{tensor}" else None
    )


def truncate_the_model(repository: Path) -> None:
    """Half of the file."""
    content = (repository / MODEL).read_bytes()
    (repository / MODEL).write_bytes(content[: len(content) // 2])


FP32: dict[str, Callable[[Path], None]] = {
    "noise on the weights": change_weights,
    "mel bank one band higher": change_the_mel_bank,
    "vocabulary one token later": shift_the_vocabulary,
    "matrix zeroed": scale_one_matrix(0.0),
    "matrix doubled": scale_one_matrix(2.0),
    "matrix times 1.05": scale_one_matrix(1.05),
    "row of a matrix zeroed": clear_one_row,
    "mel bank 10 % louder": change_frontend("mel", lambda bank: bank * 1.1),
    "window one sample late": change_frontend("kernel", lambda kernel: np.roll(kernel, 1, axis=0)),
}
FP16 = {name: FP32[name] for name in ("matrix zeroed", "matrix doubled")}
"""What half precision does not hide."""
