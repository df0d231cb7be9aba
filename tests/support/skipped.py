"""Fail when a test was skipped that this machine should have run: for continuous integration."""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def main(report: Path) -> int:
    """List tests that were skipped for another reason than a missing GPU; returns the exit code."""
    skipped = []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 (our own pytest wrote it)
        reason = case.find("skipped")
        if reason is not None and not str(reason.get("message", "")).startswith("gpu:"):
            skipped.append(f"{case.get('classname')}::{case.get('name')}: {reason.get('message')}")
    for line in skipped:
        sys.stderr.write(f"skipped: {line}\n")
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
