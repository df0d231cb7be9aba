"""The command `model-builder inspect`."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from model_builder.commands.exit import errors_reported
from model_builder.commands.options import Json

TargetArgument = Annotated[
    str, typer.Argument(metavar="PATH_OR_URI", help="A fetched folder, an artifact's URI, or a .nemo file.")
]


def inspect(
    target: TargetArgument,
    *,
    json_log: Json = False,
) -> None:
    """Show what an artifact or a checkpoint is; of a checkpoint also whether it is supported, and why not."""
    from model_builder import artifact_store  # noqa: PLC0415
    from model_builder.storage import Storage  # noqa: PLC0415

    with errors_reported(None, json_log=json_log):
        path = Path(target)
        if "://" not in target and (path.is_file() or target.endswith(".nemo")):
            from model_builder.stages import inspect as inspect_stage  # noqa: PLC0415 (checkpoints need more packages)

            with tempfile.TemporaryDirectory() as folder:
                found, refusal = inspect_stage.look(path, Path(folder))
            _show(found, as_json=json_log)
            if refusal is not None:
                raise refusal
            return
        storage = Storage(target if "://" in target else Path(target).resolve().as_uri())
        manifest, content = artifact_store.read_manifest(storage)
        if json_log:
            print(manifest.to_json().decode(), end="")  # noqa: T201 (the result)
            return
        _show(_artifact_rows(manifest) | {"manifest": hashlib.sha256(content).hexdigest()}, as_json=False)


def _artifact_rows(manifest: Any) -> dict[str, Any]:  # noqa: ANN401
    recipe, provenance, gate, check = manifest.recipe, manifest.provenance, manifest.gate, manifest.check
    wer = gate.get("wer")
    baseline = gate.get("checkpoint_wer")
    return {
        "model": recipe.model_name,
        "build key": manifest.build_key,
        "engine": f"{recipe.engine}  {recipe.precision}  {recipe.frontend} front end  {recipe.wire}",
        "accepted": f"WER up to {recipe.max_wer_increase_permille / 10:g} % above NeMo's  at least "
        f"{recipe.min_token_agreement_permille / 10:g} % of tokens",
        **_plan_rows(manifest),
        "limits": f"{recipe.max_audio_seconds} s audio  batch {recipe.max_batch_size}",
        "checkpoint": f"{provenance.source}  sha256 {recipe.checkpoint_sha256[:12]}",
        "class": f"{provenance.checkpoint_class}  {provenance.parameters / 1e6:.2f} M parameters",
        "head": provenance.head
        + "".join(f"  (the checkpoint's {name} head is left out)" for name in provenance.unused_heads),
        "WER": f"{wer:.2%} served" + (f", {baseline:.2%} by NeMo" if baseline is not None else " against NeMo"),
        "agreement": f"{gate['text_agreement']:.2%} of texts  {gate['token_agreement']:.2%} of tokens like NeMo's",
        "differences": f"features ≤ {check['max_feature_difference']:.1e}  "
        f"log-probabilities ≤ {check['max_logprob_difference']:.1e}"
        + (f"  served ≤ {gate['max_token_logprob_difference']:.1e}" if "max_token_logprob_difference" in gate else ""),
        "built": f"{provenance.built_at:%Y-%m-%d %H:%M} UTC",
        "versions": "  ".join(f"{name} {version}" for name, version in provenance.versions.items()),
        "files": f"{len(manifest.files)}  {manifest.size / 1e6:.1f} MB",
    }


def _plan_rows(manifest: Any) -> dict[str, Any]:  # noqa: ANN401
    target = manifest.recipe.plan
    if target is None:
        return {}
    used = [item for item in manifest.measurements["shapes"] if item["used"]]
    best = max(used, key=lambda item: float(item["rtfx"]))
    return {
        "plan for": f"{target.gpu_product}  compute capability {target.compute_capability}  TensorRT {target.tensorrt}",
        "GPU alone": f"{best['rtfx']:,} audio seconds a second in batches of {best['batch']} x "
        f"{best['samples'] / 16_000:g} s  {len(used)} shapes",
    }


def _show(rows: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))  # noqa: T201 (the result)
        return
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, str(value))
    Console(markup=False).print(table)
