"""All that a step's process imports, for the process that steps are forked from.

Name it last among the `preload_modules` of Dagster's multiprocess executor. What is imported there
no step imports again, and no step's garbage collector goes through it.
"""

import gc
from contextlib import suppress
from importlib import import_module

from PIL import Image

import imagepipeline_dagster.component  # noqa: F401

# What libraries import late; one that is absent, or has it elsewhere by now, costs time alone.
_IMPORTED_LATE = (
    "anyio._backends._asyncio",
    "dagster_postgres",
    "dotenv",
    "httpcore",
    "opentelemetry.metrics",
    "psycopg2.extras",
    "pyarrow.pandas_compat",
    "upath.implementations.local",
)

for _name in _IMPORTED_LATE:
    with suppress(ImportError):
        import_module(_name)
Image.init()
# Forked processes share memory until one writes there, as a collection does to each object.
gc.freeze()
