"""Options that several commands of `asr` share, and the checks of their values."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_contract.server import GRPC_PORT

if TYPE_CHECKING:
    from asr_client.transcription import Tls


def address(value: str) -> str:
    """Check a server's address."""
    from asr_client.doctor import parse_address  # noqa: PLC0415 (numpy)

    try:
        parse_address(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return value


def optional_address(value: str | None) -> str | None:
    """Check a server's address where one is given."""
    return None if value is None else address(value)


def file_to_write(value: Path | None) -> Path | None:
    """Refuse a missing folder before the work, not after it."""
    if value is not None and not value.resolve().parent.is_dir():
        raise typer.BadParameter(f"the folder {value.resolve().parent} does not exist")
    return value


def _authorities(value: Path | None) -> Path | None:
    """Check the file here: gRPC would write eight lines about each connection."""
    import ssl  # noqa: PLC0415

    if value is not None:
        try:
            ssl.create_default_context(cafile=value)
        except ssl.SSLError as error:
            raise typer.BadParameter(f"{value} holds no certificate in PEM") from error
    return value


def tls_of(asked: bool, authorities: Path | None, server_name: str | None) -> "Tls | None":
    """TLS settings of the three options, None for plain text."""
    from asr_client.transcription import Tls  # noqa: PLC0415 (numpy)

    if not asked and authorities is None and server_name is None:
        return None
    return Tls(authorities, server_name)


def _channel(value: str | None) -> str | None:
    from asr_client import channels  # noqa: PLC0415 (numpy)

    if value is not None:
        try:
            channels.parse(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return value


def channel_number(value: str | None) -> int | None:
    """Number of the channel that the option names."""
    from asr_client import channels  # noqa: PLC0415

    return None if value is None else channels.parse(value)


def resource_name(value: str) -> str:
    """Name of the AsrDeployment in `NAME` or `asr/NAME`."""
    kind, slash, name = value.rpartition("/")
    if slash and kind not in {"asr", "asrdeployment", "asrdeployments"}:
        raise typer.BadParameter(f"{value}: write the name of an AsrDeployment, such as asr/english", param_hint="NAME")
    if ":" in name:
        raise typer.BadParameter(f"{value}: a server's address is given as --url {value}", param_hint="NAME")
    return name


DEFAULT_URL = f"localhost:{GRPC_PORT}"
DEFAULT_MODEL = "english_stt"
DEFAULT_RETRIES = 6
"""Their pauses take 12 s on average, 24 at most: other pods answer sooner, one that starts again later."""
Url = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="Triton's gRPC. A name of several addresses, such as NAME-headless, is balanced over them.",
        callback=address,
    ),
]
UseTls = Annotated[bool, typer.Option("--tls", help="Speak TLS, as an AsrDeployment with service.tlsSecretRef does.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Speak TLS, and trust the authorities of this PEM file.",
        show_default="those that ship with gRPC",
        exists=True,
        dir_okay=False,
        readable=True,
        callback=_authorities,
    ),
]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Speak TLS, and expect a certificate for this name, as through a port-forward.",
        show_default="the address's",
    ),
]
Model = Annotated[str, typer.Option(help="The model: N, or ensemble_N to go through Triton's own batcher.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds that a request may take, however often it is sent.")]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        max=100,
        help="How often a request is sent again whose server is lost, after growing pauses of up to 8 s. One that the "
        "server refuses or is too slow for is not.",
    ),
]
Channel = Annotated[
    str | None,
    typer.Option(
        metavar="left|right|1..N|mix",
        help="The channel to take of files that have several; mix is their average.",
        show_default="mix, but an error where channels cancel each other",
        callback=_channel,
    ),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Its namespace.", show_default="that of your kubeconfig")
]
Context = Annotated[
    str | None, typer.Option(help="Context of your kubeconfig.", show_default="the current one", metavar="NAME")
]
