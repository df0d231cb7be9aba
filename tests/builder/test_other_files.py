"""What users give in place of a `.nemo`, and checkpoints too large, are named before they are read or brought."""

import gzip
import io
import json
import secrets
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from asr_contract.errors import CheckpointError, SourceError, UnsupportedCheckpointError
from model_builder import weights_header
from model_builder.checkpoint import CONFIG, MAX_WEIGHT_BYTES, WEIGHTS, describe, unpack
from model_builder.cli import app
from model_builder.progress import NullReporter
from model_builder.stages import fetch, inspect
from model_builder.weights_header import Weight
from tests.builder.conftest import Builder
from tests.support import checkpoints
from tests.support.s3 import S3Server, s3_server
from tests.unit.test_checkpoint import CONFIG as SETTINGS

QUIET = NullReporter()


def lightning(path: Path) -> None:
    import torch  # noqa: PLC0415

    weights = torch.nn.Linear(3, 4).state_dict()
    torch.save({"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.4.0", "state_dict": weights}, path)


def bare_weights(path: Path) -> None:
    import torch  # noqa: PLC0415

    torch.save(torch.nn.Linear(3, 4).state_dict(), path)


def old_weights(path: Path) -> None:
    import torch  # noqa: PLC0415

    torch.save(torch.nn.Linear(3, 4).state_dict(), path, _use_new_zipfile_serialization=False)


def safetensors(path: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    save_file(nn.Linear(3, 4).state_dict(), path)


def onnx_model(path: Path) -> None:
    import onnx  # noqa: PLC0415

    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "nothing", [], [])), path)


def zipped(path: Path) -> None:
    import zipfile  # noqa: PLC0415

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(CONFIG, yaml.safe_dump(SETTINGS))


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (text(""), "it is empty"),
    "Lightning": (lightning, r"it is a Lightning checkpoint: load it with NeMo and write it with model\.save_to"),
    "weights": (bare_weights, r"it is a file of torch\.save, without more"),
    "old weights": (old_weights, r"it is a file of torch\.save, of PyTorch before 1\.6"),
    "safetensors": (safetensors, "it is a file of weights in safetensors, without a configuration"),
    "ONNX": (onnx_model, "it is an ONNX model"),
    "zip": (zipped, "it is a zip archive; a .nemo is a tar of the same files"),
    "GGUF": (lambda path: path.write_bytes(b"GGUF\x03\0\0\0" + bytes(100)), "it is a model in GGUF or GGML"),
    "LFS": (
        text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 458000000\n"),
        "it is a pointer of Git LFS, not the file: run git lfs pull",
    ),
    "HTML": (text("\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"), "it is an HTML page, such as of a login"),
    "XML": (text("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"), "it is XML, such as an error"),
    "JSON": (text(json.dumps({"error": "not found"})), "it is JSON, not a model"),
    "YAML": (text(yaml.safe_dump(SETTINGS, sort_keys=False)), "it is a configuration in YAML, without weights"),
    "audio": (lambda path: path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt "), "it is audio, not a model"),
}


@pytest.mark.parametrize(("make", "message"), KINDS.values(), ids=KINDS)
def test_what_is_no_checkpoint_is_named_in_one_line(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "model.nemo"
    make(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch.run(str(path), tmp_path, QUIET)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("config.json", "model.safetensors"), "a folder of Hugging Face Transformers"),
        (("model_config.yaml", "model_weights.ckpt"), r"an unpacked \.nemo; pack it with: tar -cf model\.nemo -C"),
        (("a.nemo", "README.md"), r"a folder; give the file in it, such as .*a\.nemo"),
        ((), r"a folder without a \.nemo file"),
    ],
)
def test_a_folder_is_said_to_be_one(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match=message):
        fetch.run(str(tmp_path), tmp_path, QUIET)


def packed(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {f"model/{CONFIG}": b"a: 1", f"model/{WEIGHTS}": b"x"},
            f"holds no {CONFIG}; its files lie in the folder 'model'",
        ),
        ({CONFIG: b"a: 1", "model_weights.safetensors": b"x"}, "weights are in another format, 'model_weights.safet"),
        ({CONFIG: b"a: 1", "model_weights/.metadata": b"x"}, "weights are in another format, 'model_weights/"),
        ({"config.json": b"{}", "vocab.txt": b""}, "It holds 'config.json', 'vocab.txt'"),
    ],
)
def test_an_archive_of_other_files_is_said_to_hold_them(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    path = packed(tmp_path / "model.nemo", **files)
    with pytest.raises(CheckpointError, match=message):
        unpack(path, tmp_path / "unpacked")


def test_the_header_of_weights_is_read_without_torch(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    module = torch.nn.Sequential(torch.nn.Conv1d(4, 3, 1), torch.nn.Linear(5, 6).half(), torch.nn.LayerNorm(7).double())
    torch.save(module.state_dict(), tmp_path / WEIGHTS)
    with (tmp_path / WEIGHTS).open("rb") as file:
        found = weights_header.read(file)
    assert found is not None
    assert {name: weight.shape for name, weight in found.items()} == {
        name: tuple(weight.shape) for name, weight in module.state_dict().items()
    }
    assert {weight.dtype for weight in found.values()} == {"float", "half", "double"}


def test_a_header_that_would_run_something_runs_nothing(tmp_path: Path) -> None:
    import zipfile  # noqa: PLC0415

    payload = b"cposix\nsystem\n(S'touch " + str(tmp_path / "made").encode() + b"'\ntR."
    with zipfile.ZipFile(tmp_path / WEIGHTS, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    with (tmp_path / WEIGHTS).open("rb") as file:
        assert weights_header.read(file) is None
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("head", ["decoder", "ctc_decoder"])
def test_more_weights_than_an_onnx_file_holds_are_refused_by_the_header(tmp_path: Path, head: str) -> None:
    config: dict[str, Any] = dict(SETTINGS)
    if head == "ctc_decoder":
        config["target"] = "nemo.collections.asr.models.EncDecHybridRNNTCTCBPEModel"
    (tmp_path / CONFIG).write_text(yaml.safe_dump(config))
    fits = Weight((MAX_WEIGHT_BYTES // 4 - 1000,), "half")
    describe(tmp_path, {"encoder.weight": fits, "joint.weight": fits, f"{head}.weight": Weight((1000,), "float")})
    with pytest.raises(UnsupportedCheckpointError, match=r"have 2\.13 GB of weights in FP32; at most 2\.13 GB"):
        describe(tmp_path, {"encoder.weight": fits, f"{head}.weight": Weight((1001,), "float")})


def test_a_checkpoint_that_is_refused_is_not_unpacked(tmp_path: Path) -> None:
    settings = SETTINGS | {"target": "nemo.collections.asr.models.EncDecRNNTBPEModel"}
    path = packed(tmp_path / "model.nemo", **{WEIGHTS: b"x" * 1000, CONFIG: yaml.safe_dump(settings).encode()})
    with pytest.raises(UnsupportedCheckpointError, match="It is a transducer"):
        inspect.run(path, tmp_path / "unpacked", QUIET)
    assert [file.name for file in (tmp_path / "unpacked").iterdir()] == [CONFIG]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def reached(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


def test_an_object_that_is_too_large_is_not_brought(reached: S3Server, tmp_path: Path) -> None:
    with (reached.folder / "parakeet-ctc-0.6b.nemo").open("wb") as file:
        file.truncate(2_436_000_000)
    with pytest.raises(UnsupportedCheckpointError, match=r"0\.6b\.nemo has 2\.44 GB; encoder and CTC head may have"):
        fetch.run(f"{reached.uri}/parakeet-ctc-0.6b.nemo", tmp_path, QUIET)
    assert not list(tmp_path.iterdir())


def test_an_object_that_is_no_checkpoint_is_not_brought(reached: S3Server, tmp_path: Path) -> None:
    (reached.folder / "model.ckpt").write_bytes(b"GGUF" + secrets.token_bytes(20_000_000))
    with pytest.raises(CheckpointError, match=r"model\.ckpt is not .* it is a model in GGUF"):
        fetch.run(f"{reached.uri}/model.ckpt", tmp_path, QUIET)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_falls_back_to_bytes_is_refused_before_nemo_is_loaded(tmp_path: Path) -> None:
    import sentencepiece  # noqa: PLC0415

    (tmp_path / "text").write_text("\n".join(f"word number {index}" for index in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "abc_tokenizer"), vocab_size=300, byte_fallback=True,
        minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    settings = SETTINGS | {"tokenizer": {"type": "bpe", "model_path": "nemo:abc_tokenizer.model"}}
    (tmp_path / CONFIG).write_text(yaml.safe_dump(settings))
    with pytest.raises(UnsupportedCheckpointError, match="the tokenizer falls back to bytes"):
        describe(tmp_path)


def test_a_compressed_checkpoint_is_read_as_well(tmp_path: Path, demo_checkpoint: Path) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(gzip.compress(demo_checkpoint.read_bytes(), compresslevel=1))
    found = inspect.run(path, tmp_path / "unpacked", QUIET)
    assert (found.class_name, (tmp_path / "unpacked" / WEIGHTS).is_file()) == ("EncDecCTCModelBPE", True)


def test_inspect_shows_what_a_refused_checkpoint_is_and_why_it_is_refused(tmp_path: Path) -> None:
    settings = SETTINGS | {
        "target": "nemo.collections.asr.models.EncDecRNNTBPEModel",
        "loss": {"loss_name": "tdt", "tdt_kwargs": {"durations": [0, 1, 2, 3, 4]}},
    }
    path = packed(tmp_path / "tdt.nemo", **{CONFIG: yaml.safe_dump(settings).encode(), WEIGHTS: b"x"})
    done = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    found = json.loads(done.stdout.splitlines()[0])
    assert (done.exit_code, found["class"], found["heads"]) == (12, "EncDecRNNTBPEModel", "TDT")
    assert (found["mel bands"], found["encoder"], found["subsampling"]) == ("80", "ConformerEncoder", "8")
    assert found["supported"].startswith("no: the checkpoint is a EncDecRNNTBPEModel; supported are")
    assert "It is a transducer (TDT)" in found["supported"]
    assert "It is a transducer (TDT)" in done.stderr


def test_inspect_names_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    lightning(tmp_path / "last.ckpt")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "last.ckpt")])
    assert done.exit_code == 11
    assert "it is a Lightning checkpoint" in done.stderr


def test_inspect_says_which_head_of_a_hybrid_is_built(builder: Builder) -> None:
    path = checkpoints.made(builder.folder / "kinds", "hybrid-bpe")["hybrid-bpe"]
    done = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["heads"], found["supported"]) == (0, "CTC  TDT", "yes")
    assert found["head"] == "CTC head (its TDT head is left out)"
    assert found["parameters"].endswith(" M")
