"""What forked steps share with the process that they are forked from."""

import subprocess
import sys
from pathlib import Path

from tests.processes import PROJECT

_STEPS = """
import gc, pathlib, sys
import imagepipeline_dagster.preloading
shared = gc.get_freeze_count()
from tests.pipeline import open_pipeline
with open_pipeline(pathlib.Path(sys.argv[1])) as pipeline:
    pipeline.add("boats", "boat")
    pipeline.instance.add_dynamic_partitions("prompt_set", ["boats"])
    preloaded = set(sys.modules)
    assert pipeline.run("boats").success
late = {name for name in sys.modules.keys() - preloaded if ".emulator" not in name}
print({name.partition(".")[0] for name in late} & {"PIL", "anyio", "h11", "httpcore", "upath"})
assert shared > 100_000
"""


def test_a_forked_step_imports_nothing_again(tmp_path: Path) -> None:
    """A set is made without importing more, and what was imported is no garbage collector's."""
    ran = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", _STEPS, str(tmp_path)],
        check=False,
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )

    assert ran.stdout == "set()\n", ran.stdout + ran.stderr
