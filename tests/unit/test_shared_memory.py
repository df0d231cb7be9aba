"""What Triton's Python models need of /dev/shm, and what happens where it is small."""

import json
from pathlib import Path

import pytest

from asr_client import shared_memory as seen
from asr_contract.errors import ServerError
from asr_contract.findings import Outcome
from asr_contract.server import MIB, REGION_BYTES
from model_builder.shared_memory import Needs, needs

SCHEDULER = 'backend: "python" input { name: "audio_signal" data_type: TYPE_INT16 dims: -1 }'


def write(repository: Path, name: str, config: str, settings: dict[str, object] | None = None) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    if settings is not None:
        (repository / name / "1" / "settings.json").write_text(json.dumps(settings))


def test_each_instance_of_a_python_model_counts(tmp_path: Path) -> None:
    write(tmp_path, "one", 'backend: "python"')
    write(tmp_path, "two", 'backend: "python" instance_group { count: 2 }')
    write(tmp_path, "compiled", 'backend: "tensorrt" instance_group { count: 4 }')

    assert needs(tmp_path, {"python"}).models == 3


def test_the_schedulers_largest_batches_count_in_and_out_and_once(tmp_path: Path) -> None:
    settings = {"acoustic_model": "onnx_a", "in_flight": 2, "shapes": [[16_000, 64, None], [640_000, 32, None]]}
    write(tmp_path, "a", SCHEDULER, settings)
    write(tmp_path, "preprocessing_a", SCHEDULER, settings)

    assert needs(tmp_path, {"python"}).batches == 2 * 2 * 640_000 * 32 * 2


def test_a_configuration_that_cannot_be_read_is_left_to_triton(tmp_path: Path) -> None:
    write(tmp_path, "broken", "backend: [")

    assert needs(tmp_path, {"python"}) == Needs(0, 0)


def test_enough_memory_gives_each_model_the_usual_region() -> None:
    assert Needs(4, 160 * MIB).start(256 * MIB) == REGION_BYTES


def test_a_small_memory_leaves_most_of_it_for_regions_to_grow() -> None:
    assert Needs(4, 160 * MIB).start(64 * MIB) == 4 * MIB


def test_a_memory_too_small_for_all_models_is_refused_with_what_to_write() -> None:
    with pytest.raises(ServerError, match=r"has 8 MiB free, 256 MiB are needed.*--shm-size=256m"):
        Needs(4, 160 * MIB).start(8 * MIB)


@pytest.mark.parametrize(("total", "free"), [(64, 48), (512, 8)])
def test_doctor_warns_of_small_or_full_memory(total: int, free: int) -> None:
    found = seen.judge(total * MIB, free * MIB)

    assert found.outcome is Outcome.WARNING
    assert "--shm-size" in found.hint


def test_doctor_is_content_with_enough_memory() -> None:
    assert seen.judge(256 * MIB, 192 * MIB).outcome is Outcome.OK


def test_doctor_says_nothing_of_another_machines_memory() -> None:
    assert seen.examine("192.0.2.1") is None
