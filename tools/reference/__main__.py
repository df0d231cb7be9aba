"""`python -m tools.reference` writes all generated pages; a unit test fails when one is out of date."""

from collections.abc import Callable
from pathlib import Path

from tools.reference import CHART, DOCS, PROJECT, api, commands, exit_codes, metrics, reasons, triton, values

PAGES: dict[Path, Callable[[], str]] = {
    DOCS / "reference" / "api.md": api.render,
    DOCS / "reference" / "values.md": values.render,
    DOCS / "reference" / "cli.md": commands.render,
    DOCS / "reference" / "metrics.md": metrics.render,
    DOCS / "reference" / "exit-codes.md": exit_codes.render,
    DOCS / "reference" / "reasons.md": reasons.render,
    triton.PAGE: triton.render,
    CHART / "README.md": values.readme,
}


def main() -> None:
    """Write the pages that differ."""
    for path, render in PAGES.items():
        text = render()
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"written: {path.relative_to(PROJECT)}")  # noqa: T201 (the result)


if __name__ == "__main__":
    main()
