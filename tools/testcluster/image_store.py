"""What buildah has stored, read from its folder, so that a node can take it over by hard links.

Both keep a layer as a folder in the form of overlayfs. So nothing is packed, copied or unpacked: the builder's 6.6 GB
reach a new cluster in seconds, and are on disk once.
"""

import base64
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.testcluster import machine

MEDIA = "application/vnd.oci.image"
# buildah mounts its folder of layers onto itself and may leave it so; hard links do not cross mounts. Here it is seen
# without, by this one command alone.
LINK = """while umount "$1" 2>/dev/null; do :; done; exec cp --archive "$2" --no-target-directory "$3" "$4" """


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image.

    Attributes:
        digest: Of its uncompressed archive: `sha256:…`.
        size: Of that archive, in bytes.
        folder: Its files.
    """

    digest: str
    size: int
    folder: Path

    def link(self, target: Path) -> None:
        """Make `target` the same tree, files as hard links, or as copies when it is on another disk."""
        how = "--link" if self.folder.stat().st_dev == target.stat().st_dev else "--reflink=auto"
        arguments = (str(self.folder.parents[1]), how, str(self.folder), str(target))
        alone = ("unshare", "--mount", "--propagation", "slave", "--", "sh", "-c", LINK, "link")
        machine.run([*alone, *arguments], environment={}, seconds=600)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in buildah's storage.

    Attributes:
        identity: The digest of `config`, without its algorithm.
        config: As it was written.
        layers: Lowest first.
    """

    identity: str
    config: bytes
    layers: list[Layer]

    def chains(self) -> list[str]:
        """By which containerd knows each layer on top of those below it (OCI's ChainID)."""
        chains: list[str] = []
        for layer in self.layers:
            chains.append(_digest(f"{chains[-1]} {layer.digest}".encode()) if chains else layer.digest)
        return chains

    def write_archive(self, path: Path, reference: str) -> None:
        """Write an OCI archive of all but the layers, for `ctr images import`."""
        config = {"mediaType": f"{MEDIA}.config.v1+json", "digest": _digest(self.config), "size": len(self.config)}
        layers = [
            {"mediaType": f"{MEDIA}.layer.v1.tar", "digest": layer.digest, "size": layer.size} for layer in self.layers
        ]
        kind = f"{MEDIA}.manifest.v1+json"
        manifest = _json({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers})
        entry = {
            "mediaType": kind,
            "digest": _digest(manifest),
            "size": len(manifest),
            "annotations": {"io.containerd.image.name": reference},
        }
        files = {
            "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
            "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
            f"blobs/{_digest(manifest).replace(':', '/')}": manifest,
            f"blobs/{_digest(self.config).replace(':', '/')}": self.config,
        }
        with tarfile.open(path, "w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def names(storage: Path, ending: str) -> dict[str, str]:
    """The ids of all images with a name that ends so, by that name."""
    if not (index := storage / "overlay-images/images.json").exists():
        return {}
    listed = json.loads(index.read_text())
    return {name: image["id"] for image in listed for name in image.get("names") or [] if name.endswith(ending)}


def read(storage: Path, identity: str) -> StoredImage:
    """Find an image by its id.

    Raises:
        KeyError: It is not in this storage.
    """
    images = {image["id"]: image for image in json.loads((storage / "overlay-images/images.json").read_text())}
    layers = {layer["id"]: layer for layer in json.loads((storage / "overlay-layers/layers.json").read_text())}
    found: list[Layer] = []
    layer: str | None = images[identity]["layer"]
    while layer:
        entry = layers[layer]
        found.insert(0, Layer(entry["diff-digest"], entry["diff-size"], storage / "overlay" / layer / "diff"))
        layer = entry.get("parent")
    # The storage names a file for each datum of an image, in base64 when the datum's name is not a plain word.
    name = base64.b64encode(f"sha256:{identity}".encode()).decode()
    return StoredImage(identity, (storage / "overlay-images" / identity / f"={name}").read_bytes(), found)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()
