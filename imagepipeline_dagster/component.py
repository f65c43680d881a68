"""`ImageDatasetComponent`: the same pipeline from YAML, for projects laid out by Dagster's `dg`."""

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import dagster as dg
from dagster.components.resolved.form_config import (
    UNSET_DEFAULT_SENTINEL,
    ComponentFormConfig,
    FormWidget,
)
from pydantic import BaseModel, Field, GetJsonSchemaHandler, create_model
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import override

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.definitions import build_definitions
from imagepipeline_dagster.defs.internals import discover_config_file
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.resources import ImagePipelineResource, StorageResource
from imagepipeline_dagster.scaffolding import ImageDatasetScaffolder

_REFERENCE = re.compile(r"\s*\{\{\s*env(?:\.(\w+)|\(\s*['\"](\w+)['\"]\s*\))\s*\}\}\s*")
_TEMPLATE: JsonDict = {"pattern": r"\{\{.*\}\}"}

# Their limits are the resource's: here a value may still be a reference to a variable.
_API_OPTIONS: dict[str, Any] = {
    name: (field.annotation, Field(field.default, description=field.description))
    for name, field in ImagePipelineResource.model_fields.items()
}
_ApiOptions: Any = create_model("_ApiOptions", **_API_OPTIONS)

_SECRET = ComponentFormConfig(widget=FormWidget.SECRET)
_PLAIN = ComponentFormConfig()
_ADVANCED = ComponentFormConfig(advanced=True)
_FORM = {
    **dict.fromkeys(_API_OPTIONS.keys() - {"base_url", "max_in_flight"}, _ADVANCED),
    **dict.fromkeys(("overrides", "pool", "watching", "executor", "storage_options"), _ADVANCED),
    **dict.fromkeys(("samples_per_call", "max_failure_ratio", "start"), _ADVANCED),
    **dict.fromkeys(("api_key", "tables_url", "ledger_url"), _SECRET),
    "release_cron": ComponentFormConfig(widget=FormWidget.CRON),
}
"""How Dagster's form asks for an attribute, where not by a plain field."""

_EXAMPLE = {
    "key_prefix": ["spring"],
    "title": "Spring catalogue",
    "prompts": {"table": "marketing.briefs", "columns": {"prompt": "text"}},
    "api_key": "{{ env.IMAGEPIPELINE_API_KEY }}",
    "tables_url": "{{ env.IMAGEPIPELINE_TABLES_URL }}",
    "price_per_image": 0.02,
    "budget": {"money": 50, "period": "day"},
    "moderation": {"unchecked": "quarantine"},
    "watching": {"sensor_seconds": 30},
}


class ComponentInvalid(CorrectableError):
    """An attribute cannot be used; the message says which, where, and what to do."""


@dataclass(frozen=True)
class Variable:
    """A variable of the environment, whose value is read when a run needs it."""

    name: str


def _resolve_secret(context: dg.ResolutionContext, raw: str | None) -> str | Variable | None:
    # As a value it would stand in the snapshots that Dagster keeps of each run.
    reference = _REFERENCE.fullmatch(raw) if raw else None
    if reference is None:
        return context.resolve_value(raw, as_type=str) if raw else None
    name = reference[1] or reference[2]
    if not os.environ.get(name, "").strip():
        raise ValueError(
            f"the variable {name} is not set; set it, or leave the option out for the emulator "
            "and its sample tables"
        )
    return Variable(name)


def _refuse_written_key(attributes: BaseModel | None, context: dg.ComponentLoadContext) -> None:
    # Before Dagster resolves it: its own errors repeat the line.
    key = getattr(attributes, "api_key", None)
    if not isinstance(key, str) or not key or _REFERENCE.fullmatch(key):
        return
    tree = context.resolution_context.source_position_tree
    place = tree.lookup(["attributes", "api_key"]) if tree else "defs.yaml"
    raise ComponentInvalid(
        f"{place}: attributes.api_key: would be stored with every run; put the key into the "
        'environment and write api_key: "{{ env.IMAGEPIPELINE_API_KEY }}"'
    )


def _unrendered(resolve: Callable[..., object]) -> dg.Resolver:
    return dg.Resolver(resolve, model_field_type=str, inject_before_resolve=False)


@dg.scaffold_with(ImageDatasetScaffolder)
class ImageDatasetComponent(_ApiOptions, ImageDataset, dg.Component, dg.Resolvable):
    """Prompt tables in, a moderated image dataset out.

    Secrets belong in the environment: write `api_key: "{{ env.IMAGEPIPELINE_API_KEY }}"`.
    """

    api_key: Annotated[Variable | None, _unrendered(_resolve_secret)] = Field(
        None,
        description=ImagePipelineResource.model_fields["api_key"].description,
    )
    storage: str = Field("data", description="A folder, or s3://bucket/prefix.")
    storage_options: dict[str, str] = Field(
        default={}, description=StorageResource.model_fields["write_options"].description
    )
    tables_url: Annotated[str | Variable | None, _unrendered(_resolve_secret)] = Field(
        None, description="SQLAlchemy URL of the tables; unset: sample tables on the storage."
    )
    ledger_url: Annotated[str | Variable | None, _unrendered(_resolve_secret)] = Field(
        None, description="SQLAlchemy URL of the ledger; unset: a file on the storage."
    )
    executor: str = Field(
        "in_process",
        description="What runs the steps of its jobs: in_process, multiprocess, or an executor by "
        "its import path, as dagster_k8s.k8s_job_executor.",
    )
    start: bool | None = Field(
        None, description="Whether sensors and schedules run at first; unset: on the emulator."
    )

    @classmethod
    @override
    def get_form_config(cls) -> ComponentFormConfig:
        return ComponentFormConfig(label="Image dataset", editable=True)

    @classmethod
    @override
    def get_model_cls(cls) -> type[BaseModel]:
        return type(cls.__name__, (_Strict, cls.model()), {"__module__": __name__})

    @classmethod
    @override
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        _refuse_written_key(attributes, context)
        return super().load(attributes, context)

    @override
    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        _refuse_namesakes(self, context)
        resources = self.resources()
        start = resources["imagepipeline"].emulated if self.start is None else self.start
        return build_definitions(self, resources, start=start, executor=_executor(self.executor))

    def resources(self) -> dict[str, Any]:
        """Return its resources; the secrets in them stay references."""

        def referred(value: str | Variable | None) -> str | None:
            return dg.EnvVar(value.name) if isinstance(value, Variable) else value

        return resources_for(
            api_key=referred(self.api_key),
            storage_uri=self.storage,
            storage_options=self.storage_options,
            tables_url=referred(self.tables_url),
            ledger_url=referred(self.ledger_url),
            **self.model_dump(include=_API_OPTIONS.keys() - {"api_key"}),
        )


def project_around(folder: Path) -> Path | None:
    """Return the root of the `dg` project that a folder is in; None where it is in none."""
    file = discover_config_file(folder, lambda config: config.get("directory_type") == "project")
    return None if file is None else file.parent


def datasets_in_yaml(project: Path) -> list[ImageDatasetComponent]:
    """Return the image datasets that a project's `defs.yaml` files describe.

    Raises:
        ComponentInvalid: the project, or one of them, cannot be loaded.
    """
    try:
        tree = dg.ComponentTree.for_project(project)
        return tree.get_all_components(ImageDatasetComponent)
    except Exception as error:  # whatever a project's own code raises
        raise ComponentInvalid(f"{project}: {_root_of(error)}") from error


def _root_of(error: BaseException) -> BaseException:
    # Dagster's own errors tell the whole tree of components around it.
    cause = error.__cause__ or error.__context__
    return error if cause is None else _root_of(cause)


def _refuse_namesakes(component: ImageDataset, context: dg.ComponentLoadContext) -> None:
    datasets = context.component_tree.get_all_components(ImageDatasetComponent)
    same = [dataset.title for dataset in datasets if dataset.key_prefix == component.key_prefix]
    if len(same) > 1:
        raise ComponentInvalid(
            f"key_prefix: {list(component.key_prefix)} is that of {len(same)} datasets, "
            f"{' and '.join(map(repr, same))}; give each a key_prefix of its own"
        )


def _executor(name: str) -> dg.ExecutorDefinition:
    own = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}
    if name in own:
        return own[name]
    module, _, attribute = name.rpartition(".")
    try:
        executor = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"executor: {name} cannot be imported: {error}") from error
    if not isinstance(executor, dg.ExecutorDefinition):
        raise ValueError(f"executor: {name} is no executor, but a {type(executor).__name__}")
    return executor


class _Strict(BaseModel):
    """The attributes as `dg check yaml` and the UI read them.

    Dagster lets a text stand for any value, since it may be a template, and loses descriptions.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["examples"] = [_EXAMPLE]
        schema["properties"] = {
            name: {
                **_strict(attribute),
                "description": ImageDatasetComponent.model_fields[name].description,
                **_FORM.get(name, _PLAIN).to_field_json_schema_extra(),
            }
            for name, attribute in schema["properties"].items()
        }
        return schema


def _strict(attribute: JsonSchemaValue) -> JsonSchemaValue:
    """Return an attribute's schema, in which a text is a template where the value is none."""
    choices: list[JsonSchemaValue] = attribute.get("anyOf", [])
    strict = {name: attribute[name] for name in attribute if name != "anyOf"}
    if strict.get("default") == UNSET_DEFAULT_SENTINEL:
        del strict["default"]
    if models := [choice for choice in choices if "$ref" in choice]:
        # One schema alone: an error in it is told at its own line.
        return strict | models[0]
    if {choice["type"] for choice in choices} <= {"string", "null"}:
        return attribute
    text = {"type": "string"}
    return strict | {
        "anyOf": [text | _TEMPLATE if choice == text else choice for choice in choices]
    }
