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
