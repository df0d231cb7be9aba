"""Steps of a release that `.github/workflows/release.yaml` runs: `python -m tools.release --help`.

The version comes from pyproject.toml alone. Chart and changelog have to agree with it.
"""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Annotated

import typer
import yaml

PROJECT = Path(__file__).parents[1]
CHART = PROJECT / "charts" / "asr-operator"
NAMESPACE = "asr-operator"
KUBERNETES = "1.30.0"
"""The oldest version that the chart supports; without it helm assumes one of its own."""

app = typer.Typer(
    help="Steps of a release.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def version() -> str:
    """The version of the project."""
    return str(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"])


def changes(changelog: str, released: str) -> str:
    """The changelog's section on a version; empty if there is none."""
    found = re.search(rf"^## \[{re.escape(released)}\].*?$\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE)
    return found[1].strip() if found else ""


def disagreements(tag: str, chart: dict[str, str], changelog: str) -> list[str]:
    """What keeps a tag from being released."""
    wanted = version()
    found = [] if tag == f"v{wanted}" else [f"the tag is {tag}, and pyproject.toml has version {wanted}"]
    found += [
        f"{key} of Chart.yaml is {chart[key]}, and pyproject.toml has version {wanted}"
        for key in ("version", "appVersion")
        if chart[key] != wanted
    ]
    if not changes(changelog, wanted):
        found.append(f"CHANGELOG.md has no entries below a heading ## [{wanted}]")
    return found


def with_images(values: str, operator: str, builder: str) -> str:
    """values.yaml whose default images are these, given as repository@digest; comments stay."""
    for key, reference in (("image", operator), ("builderImage", builder)):
        repository, _, digest = reference.partition("@")
        block = re.search(rf"^{key}:\n(?:[ #].*\n)+", values, re.MULTILINE)
        if not digest.startswith("sha256:") or block is None:
            raise ValueError(f"{reference} is no repository@sha256:..., or values.yaml has no {key}")
        text = (
            block[0].replace('repository: ""', f"repository: {repository}").replace('digest: ""', f"digest: {digest}")
        )
        values = values.replace(block[0], text)
    return values


@app.command()
def check(tag: Annotated[str, typer.Argument(help="Such as v0.1.0.")]) -> None:
    """Check that tag, package, chart and changelog agree."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    found = disagreements(tag, chart, (PROJECT / "CHANGELOG.md").read_text())
    for text in found:
        typer.echo(text, err=True)
    raise typer.Exit(1 if found else 0)


@app.command()
def chart(
    to: Annotated[Path, typer.Argument(help="Folder to create.")],
    operator: Annotated[str, typer.Option(help="Image of the operator, as repository@sha256:...")],
    builder: Annotated[str, typer.Option(help="Image of the builder, as repository@sha256:...")],
) -> None:
    """Copy the chart, with the images of a release as its defaults."""
    shutil.copytree(CHART, to)
    (to / "values.yaml").write_text(with_images((CHART / "values.yaml").read_text(), operator, builder))


@app.command()
def manifest(
    folder: Annotated[Path, typer.Argument(help="A chart that `chart` has written.")],
    helm: Annotated[str, typer.Option(help="The program helm.")] = "helm",
) -> None:
    """Print one manifest that installs everything: kubectl apply --server-side -f install.yaml."""
    command = [helm, "template", "asr-operator", str(folder), "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    rendered = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    typer.echo(f"---\n{yaml.safe_dump(namespace)}{rendered}", nl=False)


@app.command()
def notes(
    tag: Annotated[str, typer.Argument(help="Such as v0.1.0.")],
    references: Annotated[list[Path], typer.Argument(help="Files with one image@digest each.")],
) -> None:
    """Print the notes of a release: its changes and its digests."""
    lines = "\n".join(f"- `{path.read_text().strip()}`" for path in references)
    text = changes((PROJECT / "CHANGELOG.md").read_text(), tag.removeprefix("v"))
    typer.echo(f"{text}\n\n### Digests\n\nSigned with cosign, keyless.\n\n{lines}")


if __name__ == "__main__":
    app()
