"""Definitions of other people's kinds, as their projects publish them: `python -m tests.support.definitions`.

They come as Go modules, whose digests are pinned here as a go.sum would, and lie in `.cache/definitions` afterwards.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

from tools.testcluster.cluster import ApiServer

FOLDER = Path(__file__).parents[2] / ".cache" / "definitions"
KEDA = (
    "keda.sh_scaledobjects",
    "keda.sh_scaledjobs",
    "keda.sh_triggerauthentications",
    "keda.sh_clustertriggerauthentications",
    "eventing.keda.sh_cloudeventsources",
    "eventing.keda.sh_clustercloudeventsources",
)
"""All that KEDA's operator watches; the first one is all that ours needs to know."""
MODULES = {
    ("github.com/prometheus-operator/prometheus-operator@v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="): (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    ("github.com/kedacore/keda/v2@v2.18.1", "h1:h6bRt/IOxxtZpJlHSqhdH/lcInH7Z9obxg/JvWOmGAw="): tuple(
        f"config/crd/bases/{name}.yaml" for name in KEDA
    ),
    ("github.com/fluxcd/source-controller@v1.7.3", "h1:gFfeBiNUgF0kFFGap/rrMeJqz+0Tod0ARENJO8w/UA8="): (
        "config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml",
    ),
    ("github.com/fluxcd/kustomize-controller@v1.7.2", "h1:xmOWILtm9329M7MQCS/iCHXc2R+Xm9HjFSft9fh/PCA="): (
        "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
    ),
    ("github.com/fluxcd/helm-controller@v1.4.0", "h1:rkm8rmB6Na7eNc4pJOnvtXEaJ19iKluRtayHKjBxcUM="): (
        "config/crd/bases/helm.toolkit.fluxcd.io_helmreleases.yaml",
    ),
    ("github.com/argoproj/argo-cd/v3@v3.1.8", "h1:NkLPiRI5qGkV+q1EN3O7/0Wb9O/MVl62vadKteZqMUw="): (
        "manifests/crds/application-crd.yaml",
    ),
}


def install(server: ApiServer, *names: str) -> None:
    """Let an API server know kinds, by the names of their files.

    Raises:
        FileNotFoundError: They were not downloaded; says what to run.
    """
    for name in names:
        path = FOLDER / f"{name}.yaml"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; run `make cluster-setup`")
        server.kubectl("apply", "--server-side", "-f", str(path))
    server.wait_for_definitions()


def download() -> None:
    """Put all definitions into the folder.

    Raises:
        ValueError: A module is another one than was pinned.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for (module, digest), files in MODULES.items():
        # Compared with the digest here, so that no other service needs to be asked.
        environment = os.environ | {"GOTOOLCHAIN": "local", "GONOSUMDB": module.partition("@")[0], "GOFLAGS": ""}
        done = subprocess.run(
            ["go", "mod", "download", "-json", module], cwd="/", env=environment, check=True, capture_output=True
        )
        found = json.loads(done.stdout)
        if found["Sum"] != digest:
            raise ValueError(f"{module} has digest {found['Sum']}, expected is {digest}")
        for file in files:
            shutil.copyfile(Path(found["Dir"]) / file, FOLDER / Path(file).name)


if __name__ == "__main__":
    download()
