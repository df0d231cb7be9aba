import gzip
import io
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_contract.errors import CheckpointError, UnsupportedCheckpointError, WorkFolderError
from model_builder.checkpoint import Description, describe, unpack

CONFIG: dict[str, Any] = {
    "target": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE",
    "preprocessor": {"sample_rate": 16000, "normalize": "per_feature", "features": 80, "window_stride": 0.01},
    "encoder": {"_target_": "nemo.collections.asr.modules.ConformerEncoder", "subsampling_factor": 8},
    "tokenizer": {"dir": "/data/tokenizer", "type": "bpe"},
}

MODULES = "nemo.collections.asr.modules"
HYBRID = "nemo.collections.asr.models.EncDecHybridRNNTCTCBPEModel"

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


def test_a_member_with_a_name_that_no_file_can_have_is_refused(write: Write, tmp_path: Path) -> None:
    info = member("long")
    info.pax_headers = {"path": "a\0b"}
    with pytest.raises(CheckpointError, match="a name that no file can have"):
        opened(write(extra=info), tmp_path / "unpacked")


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


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % (name - 1)] * 9)) for name in range(ord("b"), ord("k"))
)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (BOMB, "it has aliases"),
        (b"a: &a [*a]\n", "it has aliases"),
        (b"a: [" + b"1," * 600_000 + b"]", "at most 1048576 are read"),
        (b"[" * 20_000, "recursion"),
        (b"a: 2001-99-99\n", "month must be in"),
        (b"? [a]\n: b\n", "unhashable key"),
        (bytes(range(256)), "invalid start byte"),
        (b'a: "\0"', "special characters are not allowed"),
    ],
    ids=["alias bomb", "endless alias", "huge", "deep", "no date", "no key", "no text", "control character"],
)
def test_yaml_that_would_cost_much_or_cannot_be_read_is_refused_in_one_line(
    write: Write, tmp_path: Path, raw: bytes, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(write(raw=raw), tmp_path / "unpacked")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["eighty", "80", None, True, -1, 0, 1e30, 10**30, 10**400, [], {}, [80]], ids=repr)
@pytest.mark.parametrize(("part", "key"), [("preprocessor", "features"), ("encoder", "subsampling_factor")])
def test_a_number_of_the_wrong_kind_or_size_is_named(
    write: Write, tmp_path: Path, part: str, key: str, value: object
) -> None:
    with pytest.raises(CheckpointError, match=rf"{part}\.{key} is .*; an integer from 1 to \d+ is needed"):
        opened(write(CONFIG | {part: CONFIG[part] | {key: value}}), tmp_path / "unpacked")


@pytest.mark.parametrize("value", ["eighty", 0, [], {}, -16000, float("inf")], ids=repr)
def test_a_sample_rate_that_is_none_is_named(write: Write, tmp_path: Path, value: object) -> None:
    with pytest.raises(CheckpointError, match="sample_rate is "):
        opened(write(CONFIG | {"preprocessor": {"sample_rate": value}}), tmp_path / "unpacked")


@pytest.mark.parametrize("value", ["eighty", None, 0, -1, 80, float("nan"), float("inf"), [], 10**400], ids=str)
def test_a_window_stride_that_is_none_is_named(write: Write, tmp_path: Path, value: object) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor\.window_stride is "):
        opened(write(CONFIG | {"preprocessor": {"window_stride": value}}), tmp_path / "unpacked")


def test_a_class_name_cannot_write_to_the_terminal(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpointError, match="the checkpoint is a model of unknown class"):
        opened(write(CONFIG | {"target": "nemo.collections.\x1b[31mred"}), tmp_path / "unpacked")


@given(st.lists(st.tuples(st.integers(0, 2_600), st.integers(0, 255)), max_size=8), st.integers(0, 12_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_a_checkpoint_with_any_bytes_changed_is_read_or_refused(
    write: Write, changes: list[tuple[int, int]], length: int
) -> None:
    path = write()
    content = bytearray(path.read_bytes())
    for position, value in changes:
        content[position] = value
    path.write_bytes(content[:length])
    with TemporaryDirectory() as folder, suppress(CheckpointError, UnsupportedCheckpointError, WorkFolderError):
        opened(path, Path(folder) / "unpacked")


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
        ({"preprocessor": {"_target_": f"{MODULES}.AudioToMFCCPreprocessor"}}, "the preprocessor is a AudioToMFCCPrep"),
        (
            {"decoder": {"_target_": f"{MODULES}.LSTMDecoder"}},
            r"the CTC head \(decoder\) is a LSTMDecoder; only one lin",
        ),
        ({"decoder": {"add_blank": False}}, r"decoder\.add_blank is False; a CTC head needs the blank"),
        (
            {"target": HYBRID, "aux_ctc": {"decoder": {"_target_": f"{MODULES}.LSTMDecoder"}}},
            r"the CTC head \(aux_ctc\.decoder\) is a LSTMDecoder",
        ),
        ({"encoder": {"_target_": f"{MODULES}.ConformerEncoderAdapter"}}, "has adapters .*ConformerEncoderAdapter"),
        (
            {"adapters": {"__global_cfg__": {}, "german": {"enabled": False}}},
            r"has adapters \('german'; the encoder is",
        ),
        (
            {"preprocessor": {"log_zero_guard_type": "clamp"}},
            r"log_zero_guard_type is 'clamp'; only 'add' is supported",
        ),
        ({"preprocessor": {"log_zero_guard_value": "eps"}}, r"log_zero_guard_value is 'eps'; a number above 0"),
        ({"preprocessor": {"window": "none"}}, r"window is 'none'; 'hann', 'hamming', 'blackman', 'bartlett' are"),
        ({"preprocessor": {"window": None}}, r"preprocessor\.window is None"),
        (
            {"preprocessor": {"normalize": {"fixed_mean": [0.5] * 80}}},
            r"normalize is \{'fixed_mean': \[0\.5, .{60,}\.\.\.; ",
        ),
        ({"encoder": CONFIG["encoder"] | {"subsampling_factor": 1}}, r"encoder\.subsampling_factor is 1; an encoder"),
        (
            {
                "preprocessor": {"normalize": "NA"},
                "encoder": CONFIG["encoder"] | {"att_context_style": "chunked_limited"},
            },
            r"normalize is 'NA'; only 'per_feature' is supported\. It is a cache-aware streaming model",
        ),
    ],
)
def test_what_is_not_supported_is_named_with_what_is(
    write: Write, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UnsupportedCheckpointError, match=message):
        opened(write(CONFIG | change), tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("EncDecRNNTBPEModel", {"loss": {"loss_name": "default"}}, r"transducer \(RNNT\), and has no CTC head"),
        ("EncDecRNNTModel", {"loss": {"loss_name": "tdt"}}, r"transducer \(TDT\), and has no CTC head"),
        ("EncDecRNNTBPEModel", {"model_defaults": {"tdt_durations": [0, 1, 2]}}, r"transducer \(TDT\)"),
        ("EncDecRNNTBPEModel", {"decoding": {"durations": [0, 1]}}, r"transducer \(TDT\)"),
        ("EncDecRNNTBPEModel", {"decoding": {"durations": []}, "loss": None}, r"transducer \(RNNT\)"),
        (
            "EncDecRNNTBPEModel",
            {
                "loss": {"loss_name": "default", "tdt_kwargs": {"durations": [0, 1]}},
                "decoding": {"model_type": "rnnt", "tdt_include_token_duration": None},
            },
            r"transducer \(RNNT\)",
        ),
        (
            "EncDecRNNTBPEModel",
            {"encoder": CONFIG["encoder"] | {"att_context_style": "chunked_limited"}},
            r"no CTC head; .*\. It is a cache-aware streaming model",
        ),
        ("EncDecMultiTaskModel", {}, "an attention model with a text decoder, as Canary"),
        ("EncDecHybridRNNTCTCBPEModelWithPrompt", {}, "takes a prompt beside the audio"),
        ("EncDecDenoiseMaskedTokenPredModel", {}, "a pretrained encoder without a head for text"),
        ("SortformerEncLabelModel", {}, "parts speakers, and gives no text"),
    ],
)
def test_a_model_of_another_class_is_named_in_words(
    write: Write, tmp_path: Path, name: str, more: dict[str, object], words: str
) -> None:
    config = CONFIG | {"target": f"nemo.collections.asr.models.{name}"} | more
    with pytest.raises(UnsupportedCheckpointError, match=rf"is a {name}; supported are .*\. It .*{words}"):
        opened(write(config), tmp_path / "unpacked")


def described(path: Path, folder: Path) -> Description:
    folder.mkdir()
    unpack(path, folder)
    return describe(folder)


@pytest.mark.parametrize(
    ("more", "unused"),
    [({"loss": {"loss_name": "default"}}, "RNNT"), ({"decoding": {"model_type": "tdt", "durations": [0, 1]}}, "TDT")],
)
def test_the_head_of_a_hybrid_that_is_left_out_is_named(
    write: Write, tmp_path: Path, more: dict[str, object], unused: str
) -> None:
    found = described(write(CONFIG | {"target": HYBRID} | more), tmp_path / "unpacked")
    assert found.heads == f"CTC head (its {unused} head is left out)"


def test_a_number_with_an_exponent_and_no_point_is_read_as_nemo_reads_it(write: Write, tmp_path: Path) -> None:
    raw = yaml.safe_dump(CONFIG).replace("window_stride: 0.01", "window_stride: 1e-2\n  log_zero_guard_value: 1e-10")
    assert described(write(raw=raw.encode()), tmp_path / "unpacked").step_seconds == 0.08


def test_a_stride_may_be_given_in_samples(write: Write, tmp_path: Path) -> None:
    preprocessor = CONFIG["preprocessor"] | {"window_stride": None, "n_window_stride": 160}
    found = described(write(CONFIG | {"preprocessor": preprocessor}), tmp_path / "unpacked")
    assert found.step_seconds == 0.08


@pytest.mark.parametrize("window", [{"window_size": 0.025}, {"window_size": None, "n_window_size": 400}])
def test_a_transform_shorter_than_its_window_is_refused(
    write: Write, tmp_path: Path, window: dict[str, object]
) -> None:
    with pytest.raises(CheckpointError, match=r"n_fft is 256, less than the 400 samples of the window"):
        opened(
            write(CONFIG | {"preprocessor": CONFIG["preprocessor"] | window | {"n_fft": 256}}), tmp_path / "unpacked"
        )


def test_the_context_of_a_streaming_model_is_said(write: Write, tmp_path: Path) -> None:
    streaming = {"att_context_style": "chunked_limited", "att_context_size": [[70, 13], [70, 6]]}
    found = described(write(CONFIG | {"encoder": CONFIG["encoder"] | streaming}), tmp_path / "unpacked")
    assert found.lookahead == "cache-aware, attention context [[70, 13], [70, 6]]"


@pytest.mark.parametrize("head", [None, [], "text"])
def test_a_ctc_head_that_is_no_mapping_is_refused(write: Write, tmp_path: Path, head: object) -> None:
    with pytest.raises(CheckpointError, match=r"decoder is .*; the settings of a CTC head are needed"):
        opened(write(CONFIG | {"decoder": head}), tmp_path / "unpacked")


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


@pytest.mark.parametrize("value", ["${oc.env:AWS_SECRET_ACCESS_KEY}", "${ oc.env:HOME}", "a${${name}:HOME}"])
def test_a_value_that_would_read_the_environment_is_refused(write: Write, tmp_path: Path, value: str) -> None:
    with pytest.raises(CheckpointError, match=r"labels\[1\] is .*, which would be computed"):
        opened(write(CONFIG | {"labels": ["a", value]}), tmp_path / "unpacked")


def test_a_value_that_refers_to_another_is_read(write: Write, tmp_path: Path) -> None:
    opened(write(CONFIG | {"train_rate": "${preprocessor.sample_rate}"}), tmp_path / "unpacked")


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


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.nemo is not a file"):
        unpack(tmp_path / "absent.nemo", tmp_path / "unpacked")


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
