"""Images for the test cluster, from the project's Dockerfiles, by buildah: `python -m tests.cluster.images NAME...`.

Settings of this machine (package indexes, certificates, Debian's mirror) reach the builds as mounted files, and stay
out of Dockerfiles and images. Layers are cached by buildah, so that a change of sources alone takes seconds.
"""

import argparse
import configparser
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / ".cache" / "images"
PIP_PYTHON = PROJECT / ".cache" / "bootstrap" / "bin" / "python"  # the environment itself has no pip
PROGRAMS = PROJECT / ".cache" / "bin"
PAUSE = FOLDER / "pause" / "pause"
DOCKERFILES = Path(__file__).parent / "images"
PREFIX = "localhost"
TAG = "test"
SUITE = "bookworm"
# The interpreter's shared library is what Triton's Python backend embeds.
BASE_PACKAGES = ("ca-certificates", "libpython3.11", "python3", "python3-venv")
TRITON_PACKAGES = ("flatbuffers", "numpy", "nvidia-pytriton", "onnxruntime", "packaging", "protobuf")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
MIRROR = "http://deb.debian.org/debian"


class ImageError(Exception):
    """An image that cannot be built; the message ends with the build's own words."""


@dataclass(frozen=True, slots=True)
class Image:
    """How an image is built.

    Attributes:
        dockerfile: Path of it.
        base: Name of the image that it builds on, `BASE_IMAGE`.
        context: Makes the folder that it is built from, and returns it.
    """

    dockerfile: Path
    base: str | None
    context: Callable[[], Path]


def reference(name: str) -> str:
    """The image's name in manifests."""
    return f"{PREFIX}/asr-{name}:{TAG}"


def stream(name: str, command: Sequence[str]) -> None:
    """Pipe a built image as a `docker-archive` into a command. No copy on disk: the builder's is 6.6 GB.

    Raises:
        ImageError: Either end fails.
    """
    push = _command("push", "--quiet", reference(name), f"docker-archive:/dev/stdout:{reference(name)}")
    with subprocess.Popen(push, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as source:
        done = subprocess.run(command, check=False, stdin=source.stdout, capture_output=True, text=True)
        said = source.communicate()[1].decode(errors="replace")
    if source.returncode or done.returncode:
        raise ImageError(f"{reference(name)} could not be handed over:\n{said}{done.stderr}"[-4000:])


def build(name: str) -> str:
    """Build an image, and what it builds on, as far as they changed; returns its id.

    Raises:
        ImageError: A build fails.
    """
    image = IMAGES[name]
    arguments: list[str] = []
    if image.base:
        build(image.base)
        arguments = [f"--build-arg=BASE_IMAGE={reference(image.base)}"]
    with _settings() as volumes:
        printed = _buildah(
            *("bud", "--quiet", "--layers", "--isolation", "chroot", "--pull-never", "--tag", reference(name)),
            *(f"--volume={volume}" for volume in volumes if image.base),
            *arguments,
            *("--file", str(image.dockerfile), str(image.context())),
        )
    return printed.split()[-1]


def _command(*arguments: str) -> list[str]:
    return ["buildah", "--root", str(FOLDER / "storage"), "--runroot", str(FOLDER / "run"), *arguments]


def _buildah(*arguments: str) -> str:
    done = subprocess.run(_command(*arguments), check=False, capture_output=True, text=True)
    if done.returncode:
        raise ImageError(f"buildah {arguments[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


@contextmanager
def _settings() -> Iterator[list[str]]:
    """How this machine reaches package indexes: pip's settings and certificates, as volumes for a build."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pip.conf"
        with path.open("w") as file:
            _pip_settings().write(file)
        path.chmod(0o644)
        certificates = [f"{CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.exists() else []
        yield [f"{path}:/etc/pip.conf:ro", *certificates]


def _pip_settings() -> configparser.RawConfigParser:
    """What `pip config list` says here (files and environment), but for paths that the build does not have."""
    python = next((path for path in (PIP_PYTHON, Path("/usr/bin/python3")) if path.exists()), sys.executable)
    listed = subprocess.run([python, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True).stdout
    settings = configparser.RawConfigParser()
    settings["global"] = {"disable-pip-version-check": "1", "root-user-action": "ignore"}
    for key, value in re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE):
        if key != "config-file" and not (value.startswith("/") and value != str(CERTIFICATES)):
            settings["global"][key] = value
    return settings


def _base_context() -> Path:
    """Debian in `base.tar`, made once."""
    folder = FOLDER / "base"
    if (folder / "base.tar").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root = folder / "root"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", SUITE, str(root), _mirror()]
    with (folder / "debootstrap.log").open("wb") as log:
        if subprocess.run(command, check=False, stdout=log, stderr=subprocess.STDOUT).returncode:
            log.flush()
            raise ImageError(f"debootstrap failed:\n{(folder / 'debootstrap.log').read_text()[-2000:]}")
    for useless in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"):
        shutil.rmtree(root / useless)
    # Of this machine's names and packages' mirror nothing stays.
    for name in ("etc/hostname", "etc/resolv.conf", "etc/apt/sources.list"):
        (root / name).unlink(missing_ok=True)
    partial = folder / "base.partial"
    subprocess.run(["tar", "--one-file-system", "-C", str(root), "-cf", str(partial), "."], check=True)
    shutil.rmtree(root)
    partial.rename(folder / "base.tar")
    return folder


def _mirror() -> str:
    """Debian's mirror in this machine's apt sources, else the public one."""
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {SUITE}"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout.split()
    return next((uri.rstrip("/") for uri in found if uri.rstrip("/").endswith("/debian")), MIRROR)


def _pause_context() -> Path:
    return PAUSE.parent


def _project() -> Path:
    return PROJECT


def _triton_context() -> Path:
    """The part of the lock that the server needs, and the backends."""
    folder = FOLDER / "triton"
    shutil.rmtree(folder, ignore_errors=True)
    backends = folder / "model_builder" / "triton_backends"
    shutil.copytree(
        PROJECT / "model_builder" / "triton_backends", backends, ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "requirements-triton.lock").write_text(
        locked((PROJECT / "requirements.lock").read_text(), TRITON_PACKAGES)
    )
    return folder


def _program_context(name: str, *programs: str) -> Path:
    """Programs that `make cluster-setup` built.

    Raises:
        ImageError: One is missing.
    """
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        if not (PROGRAMS / program).exists():
            raise ImageError(f"{PROGRAMS / program} is missing; run `make cluster-setup`")
        shutil.copy2(PROGRAMS / program, folder)
    return folder


def locked(lock: str, names: Sequence[str]) -> str:
    """The entries of a lock file that have these names.

    Raises:
        ImageError: One is missing.
    """
    entries = {entry.partition("==")[0]: entry for entry in re.split(r"\n(?=\S)", lock) if "==" in entry}
    if missing := [name for name in names if name not in entries]:
        raise ImageError(f"not in the lock: {', '.join(missing)}")
    return "\n".join(entries[name].strip() for name in names) + "\n"


IMAGES = {
    "pause": Image(DOCKERFILES / "pause.Dockerfile", None, _pause_context),
    "base": Image(DOCKERFILES / "base.Dockerfile", None, _base_context),
    "operator": Image(PROJECT / "operator" / "Dockerfile", "base", _project),
    "triton": Image(DOCKERFILES / "triton.Dockerfile", "base", _triton_context),
    "s3": Image(DOCKERFILES / "s3.Dockerfile", "base", partial(_program_context, "s3", "versitygw")),
    "prometheus": Image(
        DOCKERFILES / "prometheus.Dockerfile", "base", partial(_program_context, "prometheus", "prometheus", "promtool")
    ),
    "builder": Image(PROJECT / "model_builder" / "Dockerfile", "triton", _project),
}


def main() -> None:
    """Build the images that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.images", description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(IMAGES), metavar="NAME", help=", ".join(IMAGES))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name in parser.parse_args().names:
        began = time.monotonic()
        build(name)
        console.print(f"{reference(name)}  {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
