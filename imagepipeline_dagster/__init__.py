"""Image datasets out of ImagePipeline's SDXL API, as Dagster assets.

The flow, which is also the order to read the packages in:

    tables      the prompts and embeddings tables
    planning    rows validated, and the calls that they need
    purchase    the calls made, the pictures stored
    moderation  a verdict for every sample
    release     versioned datasets of what was kept
    defs        the same as Dagster assets, checks, sensors and schedules

`ledger` knows what was bought, `watching` which prompt sets changed, `alerts` what a person should
know. `api` is the HTTP contract, `emulator` the same contract served on loopback, `storage` keeps
bytes. `databases` reads URLs, `rows` turns rows into tables, `partition_names` sets into
partitions, `previews` pictures into thumbnails and contact sheets, `markup` text into Markdown.
`telemetry` counts for OpenTelemetry. `errors` is the root of what a person can put right, `options`
of every model of options.

On top: `resources` and `io_manager` for Dagster, `environment` what the environment says,
`component` a dataset in YAML, which `scaffolding` begins, `preloading` what forked steps
share, `cli` the command line, `testing` a pytest plugin for teams' own tests.
"""

import lazy_loader

# Importing Dagster takes a second, and `--help` needs none of it: the stub beside this file lists
# the public names, each with its module.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
