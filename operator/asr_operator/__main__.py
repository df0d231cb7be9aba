"""The command `asr-operator`."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from asr_contract.errors import MissingExtraError
from asr_operator import __doc__ as description
from asr_operator.errors import SettingsError

app = typer.Typer(
    name="asr-operator", help=description, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.command()
def run() -> None:
    """Run the operator until SIGTERM. Settings come from a YAML file that ASR_OPERATOR_SETTINGS names, and variables.

    Needed are triton.images (a list of image and tensorrt), builderImage and operatorImage. The cluster is that of
    KUBECONFIG, or in a pod the one around it.

    Example: ASR_OPERATOR_SETTINGS=settings.yaml asr-operator run
    """
    import kopf  # noqa: PLC0415 (slow to import, and not needed by the other commands)
    import prometheus_client  # noqa: PLC0415
    from kubernetes.config import ConfigException  # noqa: PLC0415

    from asr_operator import handlers, names  # noqa: PLC0415
    from asr_operator import settings as operator_settings  # noqa: PLC0415

    try:
        settings = operator_settings.load()
        kopf.configure(log_format=kopf.LogFormat.JSON if settings.json_log else kopf.LogFormat.FULL)
        for name in ("kopf.objects", "kubernetes", "urllib3"):  # they tell of every event and request
            logging.getLogger(name).setLevel(logging.WARNING)
        operator = handlers.Operator(settings)
    except SettingsError as error:
        _fail(str(error))
    except ConfigException as error:
        _fail(f"no cluster: {error}; set KUBECONFIG")
    if settings.metrics_port:
        prometheus_client.REGISTRY.register(operator.fleet)
        prometheus_client.start_http_server(settings.metrics_port)
    registry = kopf.OperatorRegistry()
    operator.register(registry)
    asyncio.run(
        kopf.operator(
            registry=registry,
            # kopf would ask for the user's name, and a pod's user may have none.
            identity=names.OPERATOR,  # type: ignore[arg-type]  # a type that it does not export
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=list(settings.namespaces),
            liveness_endpoint=f"http://0.0.0.0:{settings.health_port}/healthz" if settings.health_port else None,
        )
    )


@app.command()
def crd() -> None:
    """Print the CustomResourceDefinition, as the chart installs it.

    Example: asr-operator crd | kubectl apply --server-side -f -
    """
    from asr_operator import crd as definition  # noqa: PLC0415

    sys.stdout.write(definition.to_yaml())


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Manifests; - for standard input.")],
) -> None:
    """Check AsrDeployments without a cluster: fields, bounds, and the rules that the API server would enforce.

    Exit code 1 when something is wrong: one line for each field.

    Example: asr-operator check asrdeployment.yaml
    """
    import yaml  # noqa: PLC0415 (of the extra operator, which --help does without)

    from asr_operator import check as checking  # noqa: PLC0415

    wrong = checked = 0
    for file in files:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
            manifests = list(checking.documents(text))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            _fail(f"{file} cannot be read: {error}")
        for name, manifest in manifests:
            checked += 1
            for finding in checking.check(manifest):
                wrong += 1
                print(f"{file}: {name or 'unnamed'}: {finding}")  # noqa: T201 (the result)
    if not checked:
        _fail("no AsrDeployment in there")
    if wrong:
        raise typer.Exit(1)
    print(f"{checked} AsrDeployment{'s are' if checked > 1 else ' is'} valid")  # noqa: T201


def _fail(message: str) -> NoReturn:
    typer.echo(f"asr-operator: {message}", err=True)
    raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    try:
        app()
    except ModuleNotFoundError as error:
        missing = MissingExtraError(f"{error.name} is not installed", "operator")
        typer.echo(f"asr-operator: {missing}", err=True)
        sys.exit(missing.exit_code)


if __name__ == "__main__":
    main()
