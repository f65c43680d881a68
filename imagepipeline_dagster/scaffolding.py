"""What `dg scaffold defs` writes: a commented `defs.yaml` that runs at once."""

from dagster.components import Scaffolder, ScaffoldRequest
from pydantic import BaseModel, Field
from typing_extensions import override

_EMULATED = """\
  # Without a key an emulator inside this process draws the pictures, and nothing is paid.
  # api_key: "{{ env.IMAGEPIPELINE_API_KEY }}"
"""
_REAL = """\
  api_key: "{{ env.IMAGEPIPELINE_API_KEY }}"
  # Nothing is bought before a person starts the sensors or approves a plan.
  price_per_image: 0.02
  budget: {money: 50, period: month}
  approval: {required: always}
"""
_SAMPLES = """\
  # Without a URL the tables are made on the storage, with samples to begin with.
  # tables_url: "{{ env.IMAGEPIPELINE_TABLES_URL }}"
"""
_REST = """\
  # Your own tables, and columns of them that have other names:
  # prompts:
  #   table: marketing.briefs
  #   columns: {prompt: text, prompt_set: campaign}
"""


class ScaffoldOptions(BaseModel):
    """What `dg scaffold defs` asks about an image dataset."""

    tables_url: str | None = Field(
        None, description="Variable of the environment that holds the URL of your tables."
    )
    real: bool = Field(
        default=False, description="Buy at the real API, with a key from the environment."
    )


class ImageDatasetScaffolder(Scaffolder[ScaffoldOptions]):
    """Writes the YAML of one dataset, under a prefix of its own."""

    @classmethod
    @override
    def get_scaffold_params(cls) -> type[ScaffoldOptions]:
        return ScaffoldOptions

    @override
    def scaffold(self, request: ScaffoldRequest[ScaffoldOptions]) -> None:
        options = request.params
        variables = ["IMAGEPIPELINE_API_KEY"] if options.real else []
        tables = _SAMPLES
        if options.tables_url:
            variables.append(options.tables_url)
            tables = f'  tables_url: "{{{{ env.{options.tables_url} }}}}"\n'
        name = request.target_path.name
        text = (
            f"type: {request.type_name}\n\nattributes:\n"
            "  # Before every asset, job and table of this dataset, so that several fit together.\n"
            f"  key_prefix: [{name}]\n"
            f"  title: {name}\n"
            "  # Pictures, tables and releases: a folder, or s3://bucket/prefix.\n"
            f"  storage: data/{name}\n"
            f"{_REAL if options.real else _EMULATED}{tables}{_REST}"
        )
        if variables:
            text += f"\nrequirements:\n  env: [{', '.join(variables)}]\n"
        (request.target_path / "defs.yaml").write_text(text)
