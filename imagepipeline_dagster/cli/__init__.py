"""`imagepipeline-dagster …`, a module for each group of commands.

- Tables: `tables`, `importing`, with the `changes` of an import, its `refusals` and `progress`.
- What was bought, read again: `verify`.
- Money: `plan`, `approve`, `ledger`. Partitions: `sets`. How all stands: `status`.
- What keeps it from working: `doctor`.
- Where pictures come from: `lineage`. People's decisions: `moderation`.
- Versions of the dataset: `releases`.
- To begin: `new`. To try: `emulator`, `demo`.
- What they share: `configured` (what the environment says), `terminal` (what a person sees).

Heavy modules are imported by the commands that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import click

from imagepipeline_dagster.cli.approve import approve
from imagepipeline_dagster.cli.demo import demo
from imagepipeline_dagster.cli.doctor import doctor
from imagepipeline_dagster.cli.emulator import emulator
from imagepipeline_dagster.cli.importing import import_embeddings, import_prompts
from imagepipeline_dagster.cli.ledger import ledger_group
from imagepipeline_dagster.cli.lineage import lineage, replay
from imagepipeline_dagster.cli.moderation import override, review
from imagepipeline_dagster.cli.new import new
from imagepipeline_dagster.cli.plan import plan
from imagepipeline_dagster.cli.releases import releases_group
from imagepipeline_dagster.cli.sets import sets_group
from imagepipeline_dagster.cli.status import costs, retry, status
from imagepipeline_dagster.cli.tables import export, init
from imagepipeline_dagster.cli.verify import verify

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imagepipeline-dagster")
def main() -> None:
    """Image datasets out of ImagePipeline's SDXL API, as Dagster assets.

    The tables are where IMAGEPIPELINE_TABLES_URL says, or in data/tables.db.
    """


for _command in (
    new,
    init,
    import_prompts,
    import_embeddings,
    export,
    status,
    doctor,
    releases_group,
    sets_group,
    plan,
    approve,
    retry,
    costs,
    ledger_group,
    verify,
    lineage,
    replay,
    review,
    override,
    emulator,
    demo,
):
    main.add_command(_command)
