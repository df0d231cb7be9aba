import gzip
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_builder.checkpoint import describe, unpack
from model_builder.errors import CheckpointError, UnsupportedCheckpointError

CONFIG: dict[str, Any] = {
    "target": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE",
    "preprocessor": {"sample_rate": 16000, "normalize": "per_feature", "features": 80, "window_stride": 0.01},
    "encoder": {"_target_": "nemo.collections.asr.modules.ConformerEncoder", "subsampling_factor": 8},
    "tokenizer": {"dir": "/data/tokenizer", "type": "bpe"},
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(config: object = CONFIG, *, extra: tarfile.TarInfo | None = None, raw: bytes | None = None) -> Path:
        content = raw if raw is not None else yaml.safe_dump(config).encode()
        path = tmp_path / "model.nemo"
        with tarfile.open(path, "w") as archive:
            for name, data in (("./model_config.yaml", content), ("./model_weights.ckpt", b"weights")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            if extra is not None:
                archive.addfile(extra, io.BytesIO(b"x" * extra.size))
        return path

    return written


def opened(path: Path, folder: Path) -> None:
    folder.mkdir()
    unpack(path, folder)
    describe(folder)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 1 if kind == tarfile.REGTYPE else 0
    return info


def test_a_supported_checkpoint_is_described(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    unpack(write(), folder)
    found = describe(folder)
    assert (found.class_name, found.features, found.step_seconds) == ("EncDecCTCModelBPE", 80, 0.08)


@pytest.mark.parametrize(
    "extra",
    [
        member("../outside"),
        member("/absolute"),
        member("a/../../outside"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "model_config.yaml"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_members_that_a_checkpoint_has_no_use_for_are_refused(
    write: Write, tmp_path: Path, extra: tarfile.TarInfo
) -> None:
    with pytest.raises(CheckpointError, match="member"):
        opened(write(extra=extra), tmp_path / "unpacked")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.nemo", "unpacked"]


def test_a_member_that_comes_twice_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="twice"):
        opened(write(extra=member("model_config.yaml")), tmp_path / "unpacked")


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(b"not a tar archive" * 1000)
    with pytest.raises(CheckpointError, match=r"not a complete \.nemo file"):
        opened(path, tmp_path / "unpacked")


def test_a_truncated_archive_is_refused(write: Write, tmp_path: Path) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(CheckpointError, match=r"model_config\.yaml|not a complete"):
        opened(path, tmp_path / "unpacked")


def test_a_python_object_in_the_configuration_is_not_made(write: Write, tmp_path: Path) -> None:
    payload = b"target: !!python/object/apply:pathlib.Path.touch [%r]\n" % str(tmp_path / "made").encode()
    with pytest.raises(CheckpointError, match="plain YAML"):
        opened(write(raw=payload), tmp_path / "unpacked")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "nemo.collections.asr.models.EncDecRNNTBPEModel"}, "is a EncDecRNNTBPEModel; supported are"),
        ({"encoder": {"_target_": "nemo.collections.asr.modules.ConvASREncoder"}}, "the encoder is a ConvASREncoder"),
        ({"preprocessor": {"normalize": "all_features"}}, "preprocessor.normalize is 'all_features'"),
        ({"preprocessor": {"sample_rate": 8000}}, "takes 8000 Hz"),
        ({"encoder": CONFIG["encoder"] | {"self_attention_model": "rel_pos_local_attn"}}, "is 'rel_pos_local_attn'; "),
        ({"encoder": CONFIG["encoder"] | {"subsampling": "vggnet"}}, "encoder.subsampling is 'vggnet'; supported: "),
        ({"encoder": CONFIG["encoder"] | {"conv_norm_type": "group_norm8"}}, "encoder.conv_norm_type is 'group_norm8'"),
        ({"encoder": CONFIG["encoder"] | {"reduction": "pooling"}}, "encoder.reduction is 'pooling'; supported: None"),
        ({"tokenizer": {"type": "wpe", "dir": "/data"}}, "the tokenizer is WordPiece; only SentencePiece"),
        ({"tokenizer": {"type": "agg", "langs": {"en": {"type": "bpe"}}}}, "an aggregate of several tokenizers; only"),
        ({"tokenizer": {"type": "bpe", "custom_tokenizer": {}}}, "the tokenizer is a custom class; only SentencePiece"),
    ],
)
def test_what_is_not_supported_is_named_with_what_is(
    write: Write, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UnsupportedCheckpointError, match=message):
        opened(write(CONFIG | change), tmp_path / "unpacked")


@pytest.mark.parametrize(
    "change",
    [
        {"target": "os.system"},
        {"encoder": CONFIG["encoder"] | {"_target_": "subprocess.Popen"}},
        {"loss": {"inner": [{"_target_": "builtins.eval"}]}},
    ],
)
def test_a_class_that_is_not_of_nemo_is_refused_by_name(
    write: Write, tmp_path: Path, change: dict[str, object]
) -> None:
    with pytest.raises(CheckpointError, match="which is not a class of NeMo"):
        opened(write(CONFIG | change), tmp_path / "unpacked")


def test_a_member_that_unpacks_to_ten_gigabytes_is_refused_before_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nemo"
    with gzip.open(path, "wb") as file:
        header = tarfile.TarInfo("model_weights.ckpt")
        header.size = 10 * 1024**3
        file.write(header.tobuf() + b"\0" * 1_000_000)
    with pytest.raises(CheckpointError, match="unpacks to more than a checkpoint can be"):
        opened(path, tmp_path / "unpacked")
    assert not list((tmp_path / "unpacked").iterdir())


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(10 * 1024**2)
    path = tmp_path / "model.nemo"
    subprocess.run(["tar", "--create", "--sparse", "--file", path, "--directory", tmp_path, "sparse"], check=True)
    with pytest.raises(CheckpointError, match="not a plain file"):
        opened(path, tmp_path / "unpacked")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    path.touch()
    with pytest.raises(CheckpointError, match="not a complete"):
        opened(path, tmp_path / "unpacked")


@pytest.mark.parametrize(
    "change",
    [
        {"xscaling": True, "use_bias": False, "untie_biases": False},
        {"att_context_size": [[70, 13], [70, 6]], "att_context_style": "chunked_limited"},
        {"causal_downsampling": True, "conv_context_size": "causal", "conv_norm_type": "layer_norm"},
        {"subsampling": "striding", "subsampling_factor": 4, "reduction_factor": 1},
    ],
)
def test_other_settings_of_the_encoder_are_accepted(write: Write, tmp_path: Path, change: dict[str, object]) -> None:
    opened(write(CONFIG | {"encoder": CONFIG["encoder"] | change}), tmp_path / "unpacked")


def test_models_of_characters_need_no_tokenizer(write: Write, tmp_path: Path) -> None:
    config = CONFIG | {"target": "nemo.collections.asr.models.EncDecCTCModel"}
    del config["tokenizer"]
    opened(write(config), tmp_path / "unpacked")


def test_an_archive_of_an_older_nemo_is_compressed_and_is_read(write: Write, tmp_path: Path) -> None:
    path = write()
    path.write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
    opened(path, tmp_path / "unpacked")


@pytest.mark.parametrize("config", [None, [], "text", {"target": CONFIG["target"]}])
def test_a_configuration_without_the_needed_parts_is_refused(write: Write, tmp_path: Path, config: object) -> None:
    with pytest.raises((CheckpointError, UnsupportedCheckpointError)):
        opened(write(config), tmp_path / "unpacked")
