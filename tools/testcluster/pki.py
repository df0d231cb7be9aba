"""An authority of a cluster's own, what it signs, and kubeconfigs. By OpenSSL (3.0 or later)."""

import base64
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "365")
# Of our own: the system's configuration would mark every certificate as an authority.
CONFIGURATION = "[req]\ndistinguished_name=name\nprompt=no\n[name]\n"


@dataclass(frozen=True, slots=True)
class Signed:
    """PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates; its own files are `ca.crt` and `ca.key` in `folder`."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """Of the authority itself."""
        return self.folder / "ca.crt"

    def create(self) -> None:
        """Make the authority, and the key that signs service accounts' tokens (`service-account.key`)."""
        self.folder.mkdir(parents=True, mode=0o700)
        (self.folder / "openssl.cnf").write_text(CONFIGURATION)
        self._request("ca", "/CN=asr-test-cluster", "basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign")
        _openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", self.folder / "service-account.key")

    def sign(self, name: str, *, user: str, group: str = "", addresses: list[str] | None = None) -> Signed:
        """Sign a certificate that names a user and is good for clients, and for servers at `addresses` if given.

        Args:
            name: Of the files.
            user: The common name, which Kubernetes takes for the user's.
            group: The organisation, which Kubernetes takes for the user's group.
            addresses: Subject alternative names in OpenSSL's notation: `IP:127.0.0.1`, `DNS:kubernetes`.
        """
        subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
        names = [f"subjectAltName={','.join(addresses)}"] if addresses else []
        usage = "extendedKeyUsage=clientAuth" + (",serverAuth" if addresses else "")
        self._request(name, subject, usage, *names, signer=True)
        return Signed(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def _request(self, name: str, subject: str, *extensions: str, signer: bool = False) -> None:
        authority = ("-CA", self.certificate, "-CAkey", self.folder / "ca.key") if signer else ()
        _openssl(
            *("req", "-x509", "-config", self.folder / "openssl.cnf", *KEY, *authority, "-subj", subject),
            *(part for extension in extensions for part in ("-addext", extension)),
            *("-keyout", self.folder / f"{name}.key", "-out", self.folder / f"{name}.crt"),
        )


def kubeconfig(server: str, authority: Path, client: Signed) -> str:
    """A kubeconfig that needs no other file."""

    def data(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    user = {"client-certificate-data": data(client.certificate), "client-key-data": data(client.key)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "asr-test",
            "contexts": [{"name": "asr-test", "context": {"cluster": "asr-test", "user": "asr-test"}}],
            "clusters": [
                {"name": "asr-test", "cluster": {"server": server, "certificate-authority-data": data(authority)}}
            ],
            "users": [{"name": "asr-test", "user": user}],
        },
        indent=2,
    )


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
