"""The Dagster keys of a dataset's resources: its own, so that no other project's are touched.

Stages name their resources as they think of them, `ledger` or `storage`. In Dagster each has the
dataset's name before it. Nothing of them stands in a run's config: Dagster would keep a secret
there with every run, and could not launch a masked one.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import dagster as dg
from dagster.components.definitions import LazyDefinitions
from pydantic import ValidationError

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.environment import EnvironmentInvalid
from imagepipeline_dagster.resources import ImagePipelineResource

P = ParamSpec("P")
T = TypeVar("T")
DefinitionT = TypeVar("DefinitionT", bound=dg.AssetsDefinition)
ConfigurableT = TypeVar(
    "ConfigurableT", bound=dg.ConfigurableResource[Any] | dg.ConfigurableIOManager
)

_NAMES = ("imagepipeline", "tables", "ledger", "storage")
_ABOUT = {
    "tables": "The database of the prompts and embeddings tables; only ever read.",
    "ledger": "The ledger of what was claimed, bought and stored.",
    "storage": "Where pictures, tables and releases are kept.",
    "io_manager": "Hands this dataset's tables from stage to stage; nobody else's.",
}


def with_resources_of(dataset: ImageDataset) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a function that Dagster calls take the dataset's resources by their short names."""

    def renamed(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function, eval_str=True)
        if inspect.isgeneratorfunction(function):
            # Dagster reads what a plain function says that it returns.
            signature = signature.replace(return_annotation=signature.empty)
        keys = {name: dataset.resource(name) for name in signature.parameters if name in _NAMES}
        names = {key: name for name, key in keys.items()}

        @wraps(function)
        def called(*arguments: P.args, **options: P.kwargs) -> T:
            renamed: Any = {names.get(option, option): options[option] for option in options}
            return function(*arguments, **renamed)

        parameters = [
            parameter.replace(name=keys.get(name, name))
            for name, parameter in signature.parameters.items()
        ]
        vars(called)["__signature__"] = signature.replace(parameters=parameters)
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        if signature.return_annotation is not signature.empty:
            called.__annotations__["return"] = signature.return_annotation
        return called

    return renamed


def with_io_manager_of(dataset: ImageDataset, definition: DefinitionT) -> DefinitionT:
    """Let an asset, or checks, ask for no IO manager but the dataset's own; return the same.

    Dagster sets up the project's also for what stores and loads nothing: the result of a check, an
    asset that comes before, the output of a graph. Its decorators do not let us say which.
    """
    own, node = dataset.resource("io_manager"), definition.node_def
    for output in node.output_defs:
        if output.io_manager_key == "io_manager":
            vars(output)["_io_manager_key"] = own
    for above in node.input_defs:
        if above.dagster_type.is_nothing:
            vars(above)["_input_manager_key"] = own
    return definition


def bound_resources(
    dataset: ImageDataset, resources: Mapping[str, Any]
) -> dict[str, dg.ResourceDefinition]:
    """Return a dataset's resources under its own Dagster keys, none with a run config."""
    return {
        dataset.resource(name): _without_config(name, resource)
        for name, resource in resources.items()
    }


def _without_config(name: str, resource: Any) -> dg.ResourceDefinition:  # noqa: ANN401
    if not isinstance(resource, dg.ConfigurableResource | dg.ConfigurableIOManager):
        if isinstance(resource, dg.ResourceDefinition):
            return resource
        return _saying_what_was_given(dg.ResourceDefinition.hardcoded_resource(resource), resource)

    def made(context: dg.InitResourceContext) -> Iterator[Any]:
        known = with_variables(resource)
        nested = known.nested_resources
        fields = [field for field in type(known).model_fields if field not in nested]
        config = {field: getattr(known, field) for field in fields}
        # In the run's own instance: Dagster would make another one for each resource.
        with (
            dg.build_init_resource_context(config=config, instance=context.instance) as inner,
            known.from_resource_context_cm(inner, nested_resources=nested) as ready,
        ):
            yield ready

    kind: Any = dg.ResourceDefinition
    if isinstance(resource, dg.ConfigurableIOManager):
        kind = dg.IOManagerDefinition
    description = _description(name, resource)
    made_by_dagster = kind(resource_fn=made, config_schema={}, description=description)
    return _saying_what_was_given(made_by_dagster, resource)


def _saying_what_was_given(
    definition: dg.ResourceDefinition, resource: object
) -> dg.ResourceDefinition:
    vars(definition)["given"] = resource
    return definition


def given_resources(dataset: ImageDataset, found: Iterable[object]) -> dict[str, Any]:
    """Return the resources that a dataset's definitions were built with, secrets looked up.

    They are looked for in those of `found` that are definitions; where none are the dataset's,
    nothing is returned.

    Raises:
        EnvironmentInvalid: a variable that one of them names is not set, or one is a definition of
            Dagster's own, which no command can open.
    """
    for one in [*found]:  # a function of definitions may import more into its module
        definitions = one
        if isinstance(one, LazyDefinitions) and not one.has_context_arg:
            definitions = one()
        if isinstance(definitions, dg.Definitions):
            bound = definitions.resources or {}
            named = {name: bound.get(dataset.resource(name)) for name in _NAMES}
            if all(named.values()):
                return {name: _opened(name, definition) for name, definition in named.items()}
    return {}


def _opened(name: str, definition: object) -> Any:  # noqa: ANN401 - a resource of any type
    try:
        given = vars(definition)["given"]
    except KeyError:
        raise EnvironmentInvalid(
            f"{name}: build_definitions was given a ResourceDefinition, which commands cannot "
            "open: give it the resource itself, such as a StorageResource"
        ) from None
    return _looked_up(name, given)


def with_variables(resource: ConfigurableT) -> ConfigurableT:
    """Return a resource whose settings are what the variables that they name hold.

    Raises:
        EnvironmentInvalid: one is not set in this process, and no other value, and no emulator, may
            take its place; or what it holds cannot be used.
    """
    fields = {field: getattr(resource, field) for field in type(resource).model_fields}
    known = {field: _looked_up(field, value) for field, value in fields.items()}
    try:
        return type(resource)(**known)
    except ValidationError as error:  # which repeats the values, and the key among them
        told = [
            ".".join(map(str, one["loc"] or [type(resource).__name__])) + f": {one['msg']}"
            for one in error.errors(include_input=False, include_context=False)
        ]
        raise EnvironmentInvalid("; ".join(told)) from None


def _looked_up(field: str, value: Any) -> Any:  # noqa: ANN401 - a setting of any type
    if isinstance(value, dg.ConfigurableResource):
        return with_variables(value)
    if not isinstance(value, dg.EnvVar):
        return value
    held = value.get_value()
    if held is None or not held.strip():
        raise EnvironmentInvalid(
            f"{value.env_var_name}: {field} is read from it, and it is not set in this process; "
            "set it also where runs are carried out"
        )
    return held


def _description(name: str, resource: object) -> str | None:
    if isinstance(resource, ImagePipelineResource):
        return f"{resource.__doc__}\n\nServed by: {resource.served_by}."
    return _ABOUT.get(name)
