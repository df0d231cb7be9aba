"""The command `model-builder fetch`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from model_builder.commands.exit import errors_reported, new_reporter
from model_builder.commands.options import ComputeCapability, GpuProduct, Json, TerminationLog, refuse_capability_alone

ManifestSha256Option = Annotated[str | None, typer.Option(help="Refuse any manifest but this one.", metavar="HEX")]
TensorrtOption = Annotated[
    str | None, typer.Option(help="TensorRT of the server; refuse a plan of another.", show_default=False)
]
OverridesOption = Annotated[
    str | None,
    typer.Option(
        help="What differs from the build, as JSON: maxBatchSize, queueDelayMicroseconds, instances, and device "
        "(CPU or GPU) of the ONNX model. Needs --repository.",
        show_default=False,
    ),
]
RepositoryOption = Annotated[
    Path | None,
    typer.Option(help="Folder to create with the overrides; DEST stays as published.", show_default=False),
]
SharedOption = Annotated[
    bool,
    typer.Option(
        "--shared",
        help="DEST lies in a folder that others fetch into, too: wait for them, use what is there and as "
        "published, remove what is unused where its room is needed. Needs --manifest-sha256.",
    ),
]
SizeLimitOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="BYTES",
        help="With --shared: bytes that all artifacts there may take.",
        show_default="its disk's",
    ),
]


def fetch(
    artifact_uri: Annotated[str, typer.Argument(help="What `build` printed.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to create.")],
    *,
    manifest_sha256: ManifestSha256Option = None,
    gpu_product: GpuProduct = None,
    compute_capability: ComputeCapability = None,
    tensorrt: TensorrtOption = None,
    overrides: OverridesOption = None,
    repository: RepositoryOption = None,
    shared: SharedOption = False,
    size_limit: SizeLimitOption = None,
    json_log: Json = False,
    termination_log: TerminationLog = None,
) -> None:
    """Download an artifact, verify every byte, and put it in place in one step: all of it or nothing.

    With --gpu-product and --tensorrt nothing is downloaded where its plan could not run.
    """
    from model_builder import artifact_cache, artifact_store, driver  # noqa: PLC0415
    from model_builder.storage import Storage  # noqa: PLC0415

    if (overrides is None) != (repository is None):
        raise typer.BadParameter("--overrides and --repository go together", param_hint="--overrides")
    if shared and manifest_sha256 is None:
        raise typer.BadParameter("write which manifest: --manifest-sha256", param_hint="--shared")
    if size_limit is not None and not shared:
        raise typer.BadParameter("is for --shared", param_hint="--size-limit")
    refuse_capability_alone(gpu_product, compute_capability)
    reporter = new_reporter(json_log=json_log)
    with errors_reported(termination_log, json_log=json_log):
        if gpu_product is not None or tensorrt is not None:
            if shared and manifest_sha256 is not None:
                wanted = artifact_cache.manifest(artifact_uri, destination, sha256=manifest_sha256)
            else:
                wanted, _ = artifact_store.read_manifest(Storage(artifact_uri), sha256=manifest_sha256)
            artifact_store.check_plan(wanted, gpu_product, compute_capability, tensorrt)
        if gpu_product is not None:
            driver.check(gpu_product, compute_capability, driver.first_gpu())

        with ExitStack() as held:
            if shared and manifest_sha256 is not None:
                cached = artifact_cache.fetch(
                    artifact_uri, destination, sha256=manifest_sha256, limit=size_limit, reporter=reporter
                )
                manifest = held.enter_context(cached)
            else:
                manifest = artifact_store.fetch(artifact_uri, destination, sha256=manifest_sha256, reporter=reporter)
            if overrides is not None and repository is not None:
                from model_builder.repository import overrides as laying  # noqa: PLC0415 (Triton's protobuf)

                if shared:
                    held.enter_context(artifact_cache.changing(destination.parent, reporter))
                laying.lay(destination, repository, laying.parse(overrides), manifest.recipe)
        print(repository or destination)  # noqa: T201 (the result)
