"""The install manifest of a release: one file that kubectl applies."""

import subprocess
import sys
from pathlib import Path

import yaml

from tools.testcluster.cluster import HELM, PROJECT, ApiServer

DIGEST = "sha256:" + "a" * 64
OPERATOR, BUILDER = f"registry.test/asr-operator@{DIGEST}", f"registry.test/asr-builder@{DIGEST}"


def released(*arguments: str) -> str:
    command = [sys.executable, "-m", "tools.release", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout


def test_the_api_server_accepts_the_install_manifest_of_a_release(server: ApiServer, tmp_path: Path) -> None:
    released("chart", str(tmp_path / "chart"), "--operator", OPERATOR, "--builder", BUILDER)
    text = released("manifest", str(tmp_path / "chart"), "--helm", str(HELM))
    objects = [item for item in yaml.safe_load_all(text) if item]
    (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
    assert {item["kind"] for item in objects} >= {"Namespace", "CustomResourceDefinition", "ClusterRole"}
    assert [item["image"] for item in deployment["spec"]["template"]["spec"]["containers"]] == [OPERATOR]
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    assert server.get("deployments", "-n", "asr-operator")["items"][0]["metadata"]["name"] == "asr-operator"
    server.kubectl("delete", "namespace", "asr-operator", "--wait=false")
