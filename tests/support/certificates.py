"""An authority of one's own and a certificate of it for loopback, as a company's storage has: by OpenSSL."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: of the authority, and of a server on 127.0.0.1."""

    authority: Path
    certificate: Path
    key: Path


def certificate(folder: Path) -> Certificate:
    """Make an authority and have it sign."""
    made = Certificate(folder / "authority.pem", folder / "server.pem", folder / "server.key")
    authority_key, request, extension = folder / "authority.key", folder / "server.csr", folder / "extension"
    extension.write_text("subjectAltName=IP:127.0.0.1")
    for arguments in (
        (
            "req",
            "-x509",
            *KEY,
            "-days",
            "2",
            "-subj",
            "/CN=authority",
            "-keyout",
            authority_key,
            "-out",
            made.authority,
        ),
        ("req", *KEY, "-subj", "/CN=storage", "-keyout", made.key, "-out", request),
        (
            *("x509", "-req", "-in", request, "-CA", made.authority, "-CAkey", authority_key),
            *("-CAcreateserial", "-extfile", extension, "-out", made.certificate),
        ),
    ):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    return made
