"""Images for the test cluster, from Dockerfiles, by buildah: `python -m tools.testcluster.images NAME...`.

Settings of this machine (package indexes, certificates, Debian's mirror) reach the builds as mounted files, and stay
out of Dockerfiles and images. Layers are cached by buildah, so that a change of sources alone takes seconds.
"""

import argparse
import configparser
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tools.testcluster import image_store
from tools.testcluster.image_store import StoredImage

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / ".cache" / "images"
# What takes minutes and gigabytes is kept for all clones, where pip, uv and Go keep theirs. Tags are a clone's own.
SHARED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asr-operator" / "images"
STORAGE, SCRATCH, CLONES = SHARED / "storage", SHARED / "scratch", SHARED / "clones"
CLONE = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:8]
PIP_PYTHON = PROJECT / ".cache" / "bootstrap" / "bin" / "python"  # the environment itself has no pip
PROGRAMS = PROJECT / ".cache" / "bin"
PAUSE = FOLDER / "pause" / "pause"
DOCKERFILES = Path(__file__).parent / "images"
PREFIX = "localhost"
TAG = "test"
SUITE = "bookworm"
# What NVIDIA's recipe for the Triton image installs, without recommended packages: what else our Dockerfiles need of
# their base is found missing here, and not by users.
BASE_PACKAGES = (
    *("ca-certificates", "python3", "libarchive-dev"),
    *("python3-pip", "python3-wheel", "python3-setuptools", "libpython3-dev"),
)
TRITON_PACKAGES = ("flatbuffers", "nvidia-pytriton", "onnxruntime", "packaging", "protobuf")
UV = PROJECT / ".cache" / "bootstrap" / "bin" / "uv"
UV_CACHE = "/var/cache/uv"  # in builds; links cannot leave that mount
UV_FLAGS = f"--cache-dir={UV_CACHE} --link-mode=copy"
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
        stages: Names of the Dockerfile's stages but for the last. They are tagged, so that their layers stay.
    """

    dockerfile: Path
    base: str | None
    context: Callable[[], Path]
    stages: tuple[str, ...] = ()


def reference(name: str) -> str:
    """The image's name in manifests."""
    return f"{PREFIX}/asr-{name}:{TAG}"


def _tag(name: str) -> str:
    """The image's name in buildah's storage."""
    return f"{PREFIX}/asr-{name}:{CLONE}"


@functools.cache
def build(name: str) -> StoredImage:
    """Build an image, and what it builds on, as far as they changed, once a process.

    Raises:
        ImageError: A build fails.
    """
    with _alone():
        before = image_store.names(STORAGE, _tag(name)).get(_tag(name))
        identity = _build(name)
        if identity != before:
            _prune()
        return image_store.read(STORAGE, identity)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold buildah's storage, and remove what a build that was killed left there."""
    CLONES.mkdir(parents=True, exist_ok=True)
    (CLONES / CLONE).write_text(str(PROJECT))
    with (SHARED / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Console(stderr=True).print("waiting for another build of images to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(SCRATCH, ignore_errors=True)
        SCRATCH.mkdir()
        _buildah("rm", "--all")
        yield


def _prune() -> None:
    """Remove the images of clones that are gone, and then what no image with a name is made of."""
    gone = [clone for clone in CLONES.iterdir() if not Path(clone.read_text()).is_dir()]
    for clone in gone:
        if names := image_store.names(STORAGE, f":{clone.name}"):
            _buildah("rmi", *names)
        clone.unlink()
    _buildah("rmi", "--prune")


@functools.cache
def _build(name: str) -> str:
    image = IMAGES[name]
    arguments: list[str] = []
    if image.base:
        _build(image.base)
        arguments = [f"--build-arg=BASE_IMAGE={_tag(image.base)}", f"--build-arg=UV_CACHE={UV_FLAGS}"]
    with _settings() as volumes:
        arguments += [f"--volume={volume}" for volume in volumes if image.base]
        for stage in image.stages:
            _run_build(image, f"--target={stage}", f"--tag={_tag(f'{name}-{stage}')}", *arguments)
        return _run_build(image, f"--tag={_tag(name)}", *arguments)


def _run_build(image: Image, *arguments: str) -> str:
    how = ("bud", "--quiet", "--layers", "--isolation", "chroot", "--pull-never", "--file", str(image.dockerfile))
    return _buildah(*how, *arguments, str(image.context())).split()[-1]


def _buildah(*arguments: str) -> str:
    """Run buildah with mounts and processes of its own, so that none is left whatever happens to it or to this one."""
    tied = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    alone = (*tied, "--mount", "--propagation", "slave", "--")
    environment = os.environ | {"TMPDIR": str(SCRATCH)}  # layers pass through it
    with tempfile.TemporaryDirectory() as mounted:
        # The driver is named because `image_store` reads what it writes.
        where = ("--root", str(STORAGE), "--runroot", mounted, "--storage-driver", "overlay")
        command = [*alone, "buildah", *where, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ImageError(f"buildah {arguments[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


@contextmanager
def _settings() -> Iterator[list[str]]:
    """How this machine reaches package indexes, as volumes for a build: settings of pip and uv, certificates, cache."""
    with tempfile.TemporaryDirectory() as folder:
        pip, uv = Path(folder) / "pip.conf", Path(folder) / "uv.toml"
        with pip.open("w") as file:
            _pip_settings().write(file)
        uv.write_text(_uv_settings())
        for path in (pip, uv):
            path.chmod(0o644)
        certificates = [f"{CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.exists() else []
        cache = subprocess.run([UV, "cache", "dir"], check=True, capture_output=True, text=True).stdout.strip()
        Path(cache).mkdir(parents=True, exist_ok=True)
        yield [f"{pip}:/etc/pip.conf:ro", f"{uv}:/etc/uv/uv.toml:ro", f"{cache}:{UV_CACHE}", *certificates]


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


def _uv_settings() -> str:
    """What uv goes by here: its file, unless variables say more."""
    indexes = {
        "index-url": os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL"),
        "extra-index-url": (os.environ.get("UV_INDEX") or os.environ.get("UV_EXTRA_INDEX_URL") or "").split(),
        "find-links": os.environ.get("UV_FIND_LINKS", "").split(),
    }
    if not (lines := [f"{key} = {json.dumps(value)}" for key, value in indexes.items() if value]):
        places = (os.environ.get("UV_CONFIG_FILE"), Path.home() / ".config/uv/uv.toml", Path("/etc/uv/uv.toml"))
        lines = next((Path(place).read_text().splitlines() for place in places if place and Path(place).exists()), [])
    return "\n".join(["native-tls = true", *(line for line in lines if "native-tls" not in line), ""])


def _base_context() -> Path:
    """Debian in `base.tar`, made once for each list of packages."""
    folder = SHARED / f"base-{hashlib.sha256(repr((SUITE, BASE_PACKAGES)).encode()).hexdigest()[:8]}"
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


def _programs(image: str, *programs: str) -> Callable[[], Path]:
    return functools.partial(_program_context, image, programs)


def _program_context(image: str, programs: Sequence[str]) -> Path:
    """Programs that `make cluster-setup` built, or `make benchmark-tools`.

    Raises:
        ImageError: One is missing.
    """
    folder = FOLDER / image
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        if not (PROGRAMS / program).exists():
            raise ImageError(f"{PROGRAMS / program} is missing; run `make cluster-setup benchmark-tools`")
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
    "operator": Image(PROJECT / "operator" / "Dockerfile", "base", _project, stages=("build",)),
    "triton": Image(DOCKERFILES / "triton.Dockerfile", "base", _triton_context),
    "s3": Image(DOCKERFILES / "s3.Dockerfile", "base", _programs("s3", "versitygw")),
    "prometheus": Image(
        DOCKERFILES / "prometheus.Dockerfile", "base", _programs("prometheus", "prometheus", "promtool")
    ),
    "keda": Image(DOCKERFILES / "keda.Dockerfile", "base", _programs("keda", "keda-operator", "keda-adapter")),
    "builder": Image(PROJECT / "model_builder" / "Dockerfile", "triton", _project),
}


def main() -> None:
    """Build the images that are named."""
    parser = argparse.ArgumentParser(prog="python -m tools.testcluster.images", description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(IMAGES), metavar="NAME", help=", ".join(IMAGES))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name in parser.parse_args().names:
        began = time.monotonic()
        build(name)
        console.print(f"{reference(name)}  {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
