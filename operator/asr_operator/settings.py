"""Settings of the operator: a YAML file that the chart mounts, and environment variables that go before it.

`ASR_OPERATOR_SETTINGS` names the file. `ASR_OPERATOR_BUILDER_IMAGE` and so on set single values, with `__` between the
levels: `ASR_OPERATOR_JOBS__RETRY_SECONDS=60`.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from asr_operator.api.v1alpha1 import Apis
from asr_operator.errors import SettingsError

FILE_VARIABLE = "ASR_OPERATOR_SETTINGS"


class Group(BaseModel):
    """A group of settings, camelCase in the file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class TritonImage(Group):
    """A Triton image, the TensorRT in it, and what builds plans for it."""

    image: str = Field(min_length=1)
    """Such as nvcr.io/nvidia/tritonserver:26.08-py3."""
    tensorrt: str = Field(pattern=r"^\d+\.\d+(\.\d+)*$")
    """TensorRT version in the image: its variable TRT_VERSION."""
    builder: str | None = None
    """Builder image with the same TensorRT; builderImage if None."""


class Triton(Group):
    """The Triton images that pods may run."""

    images: tuple[TritonImage, ...] = Field(min_length=1)
    """The first one is the default of resources that ask for none."""
    apis: Apis = Apis.INFERENCE
    """Which of Triton's APIs clients may use, where a resource does not say (spec.service.apis)."""


class Jobs(Group):
    """Builds."""

    keep_seconds: int = Field(default=86_400, ge=0)
    """How long the Job of a build that succeeded is kept, with its pod's log."""
    retry_seconds: int = Field(default=300, ge=1)
    """A build that failed for a cause that may pass is run again after this time."""
    backoff_limit: int = Field(default=3, ge=0, le=20)
    """How often the Job itself starts another pod before it has failed."""


class PodMonitor(Group):
    """Prometheus Operator."""

    enabled: bool = True
    """Whether resources get a PodMonitor, where the cluster knows that kind."""
    labels: dict[str, str] = {}
    """Further labels, such as those that a Prometheus selects by."""
    interval: str = Field(default="15s", pattern=r"^\d+(ms|s|m)$")
    """Time between two scrapes."""


class Keda(Group):
    """KEDA."""

    prometheus_address: str = "http://prometheus-operated.monitoring.svc:9090"
    """Where KEDA asks for the load."""
    cluster_trigger_authentication: str = ""
    """ClusterTriggerAuthentication with the credentials for it; empty where it asks for none."""
    auth_modes: str = Field(default="bearer", pattern=r"^[a-z]+(,[a-z]+)*$")
    """What that holds, in KEDA's words: bearer, basic, tls, custom; several with commas between."""


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="ASR_OPERATOR_",
        env_nested_delimiter="__",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    triton: Triton
    """The Triton images that pods may run."""
    builder_image: str = Field(min_length=1)
    """Image that builds models and plans."""
    operator_image: str = Field(min_length=1)
    """Image that fetches models in serving pods: this operator's own."""
    namespaces: tuple[str, ...] = ()
    """Namespaces that are watched; empty means all, which needs a ClusterRole."""
    cluster_domain: str = "cluster.local"
    """DNS domain of the cluster, for the endpoints in status."""
    workers: int = Field(default=4, ge=1, le=64)
    """Resources that are reconciled at the same time."""
    resync_seconds: int = Field(default=600, ge=5)
    """Everything is read again after this time, in case a watch has missed something."""
    jobs: Jobs = Jobs()
    """Builds."""
    pod_monitor: PodMonitor = PodMonitor()
    """Prometheus Operator."""
    keda: Keda = Keda()
    """KEDA."""
    metrics_port: int = Field(default=9090, ge=0, le=65_535)
    """Where Prometheus scrapes the operator; 0 turns it off."""
    health_port: int = Field(default=8080, ge=0, le=65_535)
    """Where /healthz answers; 0 turns it off."""
    json_log: bool = True
    """Logs as JSON lines."""

    @classmethod
    def settings_customise_sources(  # noqa: D102 (of pydantic-settings)
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        path = os.environ.get(FILE_VARIABLE)
        file = () if path is None else (YamlConfigSettingsSource(settings_cls, yaml_file=path),)
        return (init_settings, env_settings, *file)


def load() -> Settings:
    """Read the file that the environment names, and the environment.

    Raises:
        SettingsError: The file is not there, or a value is missing or wrong; the message names it.
    """
    path = os.environ.get(FILE_VARIABLE)
    if path is not None and not Path(path).is_file():
        raise SettingsError(f"{FILE_VARIABLE} names {path}, which is not a file")
    try:
        return Settings.model_validate({})  # the rest comes from the sources
    except ValidationError as error:
        told = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False)]
        raise SettingsError(f"settings{f' of {path}' if path else ''}: " + "; ".join(told)) from error
