"""Names, shapes and types of the weights in a file of `torch.save`, without torch and without running anything.

Such a file is a zip archive. Its `data.pkl` holds everything but the numbers; it is a pickle, of which no class is
imported here: each stands for itself as a name.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

MAX_PICKLE_BYTES = 32 * 1024**2
"""Of `data.pkl`: that of a thousand layers has a hundredth of it."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor, as the header describes it."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)


Header = dict[str, Weight]


def read(file: IO[bytes]) -> Header | None:
    """The header of a file of weights; None if it is in another format, or damaged: NeMo says what is wrong then."""
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = (name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
            if archive.getinfo(name).file_size > MAX_PICKLE_BYTES:
                return None
            with archive.open(name) as content:
                found = _Reader(content).load()
        return {str(key): value for key, value in found.items() if isinstance(value, Weight)}
    except Exception:  # noqa: BLE001 (bytes of strangers: zipfile and pickle raise whatever they come upon)
        return None


class _Named:
    """A class of the pickle that is not imported: it takes anything, and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _tensor(storage: tuple[Any, ...], _offset: int, shape: tuple[int, ...], *rest: object) -> Weight:
    """A call of torch's `_rebuild_tensor_v2`, or of `_v3`, which names the type last."""
    dtype = str(rest[3]) if len(rest) > 3 else str(storage[1]).removesuffix("Storage")  # noqa: PLR2004
    return Weight(tuple(int(side) for side in shape), dtype.lower())


CALLS: dict[str, Callable[..., Any]] = {
    "OrderedDict": OrderedDict,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor,
    "_rebuild_parameter": lambda tensor, *_: tensor,
}


class _Reader(pickle.Unpickler):
    """Reads a pickle without importing a class of it."""

    def find_class(self, _module: str, name: str) -> Any:  # noqa: ANN401
        if name.endswith("Storage"):
            return name
        return CALLS.get(name, _Named)

    def persistent_load(self, pid: Any) -> Any:  # noqa: ANN401
        return pid
