"""A working folder with something to buy, and the command line in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind
from imagepipeline_dagster.tables.reading import SourceTables
from tests.buying import Bought, Buyer, prompts_of
from tests.cli.running import do
from tests.tables.filling import insert

DROPPED = Fault(kind=FaultKind.DROPPED_ANSWER, times=1)


@dataclass(frozen=True)
class Shop:
    """A working folder with tables, an emulator to buy from, and the command line."""

    folder: Path
    emulator: EmulatorServer

    @property
    def buyer(self) -> Buyer:
        """Buys as a run would."""
        return Buyer(
            ledger_url=f"sqlite:///{self.folder / 'data/ledger.db'}",
            folder=self.folder / "data",
            base_url=self.emulator.url,
        )

    def add(self, prompt_id: str, prompt_set: str = "spring", **row: object) -> None:
        """Add a row for a small picture."""
        values: dict[str, object] = {
            "prompt_set": prompt_set,
            "prompt_id": prompt_id,
            "prompt": f"a boat called {prompt_id}",
            "width": 64,
            "height": 64,
            **row,
        }
        insert(self.tables_url, "prompts", values)

    @property
    def tables_url(self) -> str:
        """The URL of the default tables."""
        return f"sqlite:///{self.folder / 'data/tables.db'}"

    def buy(self, prompt_set: str = "spring", *, keep_source_pictures: bool = False) -> Bought:
        """Buy a prompt set as it is in the tables."""
        with SourceTables(self.tables_url) as tables:
            prompts = prompts_of(tables.prompts(prompt_set))
        return self.buyer.buy(prompts, keep_source_pictures=keep_source_pictures)

    def run(self, *arguments: str, ok: bool = True, answer: str = "") -> str:
        """Run a command and return all that it says."""
        result = do(*arguments, answer=answer)
        assert (result.exit_code == 0) is ok, result.output
        if not ok:
            assert isinstance(result.exception, SystemExit), result.exception
        return result.output


def row_of(output: str, name: str) -> list[str]:
    """Return the cells of a table's first row with this name."""
    line = next(line for line in output.splitlines() if line.strip().startswith(name))
    return line.strip().removeprefix(name).split()


def files_in(folder: Path) -> set[Path]:
    """Return every file below a folder."""
    return {path for path in folder.rglob("*") if path.is_file()}


def lose_one(shop: Shop) -> str:
    """Buy a picture whose answer is dropped; return the key that `ledger unknown` shows."""
    shop.add("a")
    shop.emulator.set_faults(DROPPED)
    shop.buy()
    found = re.search(r"^([0-9a-f]{12})  1 image$", shop.run("ledger", "unknown"), re.MULTILINE)
    assert found is not None
    return found[1]
