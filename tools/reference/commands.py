"""The page of the command lines, from their typer applications."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer

import asr_cli.main
import asr_operator.__main__
import model_builder.cli
from tools.reference.markdown import code, escape, page, table

PROGRAMS = (model_builder.cli.app, asr_cli.main.app, asr_operator.__main__.app)
HEADER = ("option", "value", "default", "description")


def render() -> str:
    """The page."""
    blocks = ["Every command has `--help`."]
    for app in PROGRAMS:
        blocks += list(_program(app))
    return page("Command line", *blocks)


def _program(app: typer.Typer) -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    name = app.info.name
    yield f"## {name}"
    yield _prose(group.help)
    for command in group.commands.values():
        yield f"### {name} {command.name}"
        arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
        usage = " ".join([f"{name} {command.name}", "[OPTIONS]", *map(_argument, arguments)])
        yield f"```\n{usage}\n```"
        yield _prose(command.help)
        if command.params:
            yield table(HEADER, [_row(item) for item in command.params if not item.hidden])


def _argument(argument: Any) -> str:  # noqa: ANN401 (a class of typer's own)
    text = argument.metavar or argument.name.upper()
    if argument.nargs == -1 and not text.endswith("..."):
        text += "..."
    return text if argument.required else f"[{text}]"


def _prose(text: str) -> str:
    """Help as paragraphs; an example becomes a code block."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        lead, mark, example = paragraph.partition("Example: ")
        if mark and not lead.strip():
            paragraphs.append(f"```\n{' '.join(example.split())}\n```")
        else:
            paragraphs.append(escape(" ".join(paragraph.split())))
    return "\n\n".join(paragraphs)


def _row(parameter: Any) -> tuple[str, ...]:  # noqa: ANN401 (a class of typer's own)
    names = parameter.opts if parameter.param_type_name == "option" else [_argument(parameter)]
    both = " / ".join(f"`{name}`" for name in (*names, *parameter.secondary_opts))
    flag = getattr(parameter, "is_flag", False)
    return (both, "" if flag else _values(parameter), _default(parameter), escape(parameter.help or ""))


def _values(parameter: Any) -> str:  # noqa: ANN401 (a class of typer's own)
    kind = parameter.type_descriptor.annotation
    kind = next((item for item in get_args(kind) if item is not type(None)), kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{item.value}`" for item in kind)
    text = parameter.metavar or {int: "integer", float: "number", Path: "path"}.get(kind, "text")
    bounds = [
        f"{word} {value:g}"
        for word, value in (("at least", parameter.min), ("at most", parameter.max))
        if value is not None
    ]
    return ", ".join((text, *bounds))


def _default(parameter: Any) -> str:  # noqa: ANN401 (a class of typer's own)
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if (
        parameter.default is None
        or parameter.default is False
        or parameter.default == ()
        or callable(parameter.default)
    ):
        return ""
    value = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    return code(str(value) if isinstance(value, Path) else value)
