"""Processes of this machine."""

from pathlib import Path


def servers_over(work: Path) -> list[str]:
    """Process ids of the server and of its Python models whose repository lies in `work`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
        if str(work.resolve() / "repository").encode() in line:
            found.append(entry.name)
    return found


def with_variable(name: str, value: str) -> list[str]:
    """Process ids of all programs that have this variable in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            variables = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ended while we looked, or is not ours
            continue
        if f"{name}={value}".encode() in variables.split(b"\0"):
            found.append(entry.name)
    return found
