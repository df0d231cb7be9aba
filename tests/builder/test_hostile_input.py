"""Bad input through the whole command: one clear error, a stable exit code, nothing published, nothing run."""

import os
import resource
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.builder.conftest import NAME, Builder
from tests.support.programs import program


def rebuilt(checkpoint: Path, target: Path, weights: bytes) -> Path:
    """The demo checkpoint with other weights."""
    with tarfile.open(checkpoint) as source, tarfile.open(target, "w") as archive:
        for member in source:
            if member.name.endswith("model_weights.ckpt"):
                replacement = target.with_suffix(".ckpt")
                replacement.write_bytes(weights)
                archive.add(replacement, "model_weights.ckpt")
            else:
                archive.addfile(member, source.extractfile(member))
    return target


def refused(builder: Builder, source: Path, *options: str) -> subprocess.CompletedProcess[str]:
    work = source.parent / "work"
    done = builder.run(
        *("build", "--source", str(source), "--name", NAME, "--storage", f"{builder.s3.uri}/hostile"),
        *("--work", str(work), *options),
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not (builder.s3.folder / "hostile").exists()
    return done


def test_a_pickle_with_a_payload_is_refused_and_does_not_run(
    builder: Builder, demo_checkpoint: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made-by-the-payload"
    payload = b"cposix\nsystem\n(S'touch " + str(made).encode() + b"'\ntR."
    done = refused(builder, rebuilt(demo_checkpoint, tmp_path / "evil.nemo", payload))
    assert done.returncode == 11
    assert "NeMo cannot load the checkpoint" in done.stderr
    assert not made.exists()


def test_weights_cut_short_are_refused(builder: Builder, demo_checkpoint: Path, tmp_path: Path) -> None:
    done = refused(builder, rebuilt(demo_checkpoint, tmp_path / "short.nemo", b"PK\3\4 not the whole of it"))
    assert done.returncode == 11


def test_a_truncated_checkpoint_is_refused(builder: Builder, demo_checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "truncated.nemo"
    source.write_bytes(demo_checkpoint.read_bytes()[:3_000_000])
    done = refused(builder, source)
    assert done.returncode == 11
    assert "truncated.nemo is not a complete .nemo file" in done.stderr


def test_another_checkpoint_than_the_pinned_one_is_refused_with_both_digests(
    builder: Builder, demo_checkpoint: Path, tmp_path: Path
) -> None:
    source = tmp_path / "english.nemo"
    source.symlink_to(demo_checkpoint)
    done = refused(builder, source, "--sha256", "0" * 64)
    assert done.returncode == 11
    assert "has SHA-256 3bd2187474b9" in done.stderr
    assert f"but {'0' * 64} is asked for" in done.stderr


def test_a_full_work_folder_is_told(builder: Builder, demo_checkpoint: Path, tmp_path: Path) -> None:
    def few_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    done = subprocess.run(
        [
            *(program("model-builder"), "build", "--source", str(demo_checkpoint), "--name", NAME),
            *("--storage", f"{builder.s3.uri}/hostile", "--work", str(tmp_path / "work")),
        ],
        env=os.environ | builder.s3.environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=few_bytes,
    )
    assert done.returncode == 32
    assert "cannot unpack model_weights.ckpt" in done.stderr


def test_a_work_folder_that_is_a_file_is_told(builder: Builder, demo_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = builder.run(
        *("build", "--source", str(demo_checkpoint), "--name", NAME, "--storage", f"{builder.s3.uri}/hostile"),
        *("--work", str(tmp_path / "file")),
    )
    assert done.returncode == 32


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--name", "Not A Name", "--name: String should match"),
        ("--name", "onnx_english", "use 'english'"),
        ("--sha256", "3bd2187474b9", "is not a SHA-256 of 64 hexadecimal digits"),
        ("--max-audio-seconds", "0", "--max-audio-seconds"),
        ("--max-batch-size", "100000", "--max-batch-size"),
    ],
)
def test_a_setting_out_of_bounds_is_named(
    builder: Builder, tmp_path: Path, option: str, value: str, message: str
) -> None:
    options = {"--name": NAME, "--source": "never-looked-for.nemo"} | {option: value}
    done = builder.run(
        *("build", "--storage", f"{builder.s3.uri}/hostile"),
        *("--work", str(tmp_path / "work"), *(word for pair in options.items() for word in pair)),
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_wrong_credentials_are_told_and_nothing_is_built(
    builder: Builder, demo_checkpoint: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *(program("model-builder"), "build", "--source", str(demo_checkpoint), "--name", NAME),
            *("--storage", f"{builder.s3.uri}/hostile", "--work", str(tmp_path / "work")),
        ],
        env=os.environ | builder.s3.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 30
    assert "cannot read s3://asr-models/hostile/" in done.stderr


def test_a_source_whose_name_is_no_text_is_refused(builder: Builder, demo_checkpoint: Path, tmp_path: Path) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.nemo"))
    source.symlink_to(demo_checkpoint)
    done = refused(builder, source)
    assert done.returncode == 2
    assert "is not UTF-8; rename the file" in done.stderr
