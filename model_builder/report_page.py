"""`report.html`: what a build did and measured, on one page that needs nothing else."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
vertical-align: top } th { font-weight: 600 } code { font-size: 90%; overflow-wrap: anywhere } img { max-width: 100% }
.published { color: #187a2f } .failed { color: #b3261e } .differs td { background: #fff3c4 } i { color: #888 }
"""
SAME = "<i>the same</i>"


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write the page; parts that the build did not reach are left out."""
    path.write_text(render(report), encoding="utf-8")


def render(report: Mapping[str, Any]) -> str:
    """The page as HTML."""
    stages: Mapping[str, Any] = report.get("stages", {})
    check, gate = stages.get("check", {}), stages.get("gate", {})
    status = str(report.get("status", "running"))
    name = report.get("recipe", {}).get("model_name", "build")
    parts = [
        f"<h1>{_text(name)}: <span class='{_text(status)}'>{_text(status)}</span></h1>",
        f"<p><code>{_text(report['uri'])}</code></p>" if "uri" in report else "",
        f"<p>{_text(report['reason'])}: {_text(report['message'])}</p>" if "message" in report else "",
        _section("Checkpoint", _table(_checkpoint(stages))),
        _section("Figures", _table(_figures(check, gate))),
        _section(
            f"Time: {sum(float(stage.get('seconds', 0)) for stage in stages.values()):.1f} s", _image(_timeline(stages))
        )
        if stages
        else "",
        _section("Differences from NeMo", _image(_differences(check["by_utterance"])))
        if "by_utterance" in check
        else "",
        _section("Transcripts", _transcripts(gate["transcripts"])) if "transcripts" in gate else "",
        _section("Recipe", _table(report["recipe"].items())) if "recipe" in report else "",
        _section("Versions", _table(report["versions"].items())) if "versions" in report else "",
    ]
    body = "\n".join(part for part in parts if part)
    return f"<!doctype html><meta charset=utf-8><title>{_text(name)}</title><style>{STYLE}</style>\n{body}\n"


def _checkpoint(stages: Mapping[str, Any]) -> list[tuple[str, str]]:
    fetched, inspected, exported = (stages.get(name, {}) for name in ("fetch", "inspect", "export"))
    rows = []
    if "sha256" in fetched:
        rows += [
            ("source", str(fetched["source"]) + (f", commit {fetched['revision']}" if fetched.get("revision") else "")),
            ("file", f"{fetched['bytes'] / 1e6:.1f} MB, SHA-256 {fetched['sha256']}"),
        ]
    if "class" in inspected:
        rows.append(("class", f"{inspected['class']}, {inspected['vocabulary']} vocabulary"))
    if "head" in inspected:
        unused = ", ".join(inspected["unused_heads"])
        rows.append(("head", inspected["head"] + (f"; the checkpoint's {unused} head is left out" if unused else "")))
    if "parameters" in exported:
        rows.append(("parameters", f"{exported['parameters'] / 1e6:.2f} million"))
    return rows


def _figures(check: Mapping[str, Any], gate: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if "max_feature_difference" in check:
        greatest, mean = check["max_feature_difference"], check["mean_feature_difference"]
        rows += [
            ("check audio", f"{check['utterances']} utterances, {check['audio_seconds']} s"),
            ("features", f"differ by at most {greatest:.1e}, on average by {mean:.1e}"),
            ("log-probabilities", f"differ by at most {check['max_logprob_difference']:.1e}"),
        ]
        rows += [
            (f"{kind}, closest to the limit", _decided(found)) for kind, found in check.get("decided_by", {}).items()
        ]
    if "wer" in gate:
        baseline = gate["checkpoint_wer"]
        rows += [
            (
                "word error rate",
                f"{gate['wer']:.2%} served" + ("" if baseline is None else f", {baseline:.2%} by NeMo"),
            ),
            ("agreement with NeMo", f"{gate['text_agreement']:.2%} of texts, {gate['token_agreement']:.2%} of tokens"),
            ("served log-probabilities", _served_difference(gate)),
            ("server", str(gate["server"])),
        ]
    if "decided_by" in gate:
        rows.append(("served, closest to the limit", _decided(gate["decided_by"])))
    return rows


def _served_difference(gate: Mapping[str, Any]) -> str:
    greatest, mean = gate["max_token_logprob_difference"], gate["mean_token_logprob_difference"]
    return f"of the tokens: differ by at most {greatest:.1e}, on average by {mean:.1e}"


def _decided(found: Mapping[str, Any]) -> str:
    return f"{found['file']}: {found['difference']:.1e} of {found['limit']:.1e}"


def _transcripts(items: Sequence[Mapping[str, Any]]) -> str:
    """Those that differ first; what is the same as in the column before is not written again."""

    def row(item: Mapping[str, Any]) -> str:
        said, own, served = item["text"], item["checkpoint"], item["served"]
        cells = ["" if said is None else _text(said), SAME if own == said else _text(own)]
        cells.append(SAME if served == own else _text(served))
        differs = "" if served == own else " class=differs"
        return f"<tr{differs}><td>{_text(item['file'])}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"

    rows = [row(item) for item in sorted(items, key=lambda item: item["checkpoint"] == item["served"])]
    return f"<table><tr><th>file<th>said<th>NeMo<th>served</tr>{''.join(rows)}</table>"


def _timeline(stages: Mapping[str, Any]) -> Any:  # noqa: ANN401 (a matplotlib figure)
    figure, axis = _figure(height=0.5 + 0.3 * len(stages))
    names = list(stages)
    seconds = [float(stages[name].get("seconds", 0.0)) for name in names]
    starts = [sum(seconds[:index]) for index in range(len(seconds))]
    axis.barh(
        names, seconds, left=starts, color=["#9bb7d4" if stages[name].get("reused") else "#2f6db3" for name in names]
    )
    for name, start, length in zip(names, starts, seconds, strict=True):
        axis.text(start + length, name, f" {length:.1f} s", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("s (pale: reused from an earlier run)")
    axis.margins(x=0.12)
    return figure


def _differences(items: Sequence[Mapping[str, Any]]) -> Any:  # noqa: ANN401 (a matplotlib figure)
    figure, axis = _figure(height=3.2)
    lengths = [item["seconds"] for item in items]
    for key, label in (("max_feature_difference", "features"), ("max_logprob_difference", "log-probabilities")):
        axis.scatter(
            lengths, [max(item[key], 1e-9) for item in items], s=18, label=f"{label}, greatest of an utterance"
        )
    axis.set_yscale("log")
    axis.set_xlabel("audio, s")
    axis.set_ylabel("absolute difference")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def _figure(*, height: float) -> Any:  # noqa: ANN401
    # Not pyplot: that keeps global state and looks for a display.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots()


def _image(figure: Any) -> str:  # noqa: ANN401
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _section(title: str, content: str) -> str:
    return f"<h2>{_text(title)}</h2>\n{content}" if content else ""


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    cells = "".join(f"<tr><th>{_text(key)}<td>{_text(value)}</tr>" for key, value in rows)
    return f"<table>{cells}</table>" if cells else ""


def _text(value: object) -> str:
    return html.escape(str(value))
