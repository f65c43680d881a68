"""How far an import or export is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from rich import progress as rich
from rich.console import Console
from rich.progress import Progress as Bars

from imagepipeline_dagster.tables.transfer.progress import RowProgress

_ROWS_OF_A_LINE = 100_000


class ShownProgress:
    """Shows on the standard error what it is called with; close it when done.

    A step's bar goes when the step is done, so that there is room for questions between two steps.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars: Bars | None = None
        self._told = 0

    def __call__(self, progress: RowProgress) -> None:
        """Show how far the step is."""
        if self._console.is_terminal:
            self._show_bar(progress)
        elif progress.rows // _ROWS_OF_A_LINE > self._told:
            self._told = progress.rows // _ROWS_OF_A_LINE
            of = f" of {progress.of:,}" if progress.of else ""
            self._console.print(f"{progress.done} {progress.rows:,}{of} rows", highlight=False)
        if progress.rows == progress.of:
            self.close()

    def _show_bar(self, progress: RowProgress) -> None:
        if self._bars is None:
            columns = (
                rich.TextColumn("{task.description} {task.completed:,.0f} rows"),
                rich.BarColumn(),
                rich.TimeElapsedColumn(),
                rich.TimeRemainingColumn(),
            )
            self._bars = rich.Progress(*columns, console=self._console, transient=True)
            self._bars.add_task(progress.done, total=progress.of)
            self._bars.start()
        self._bars.update(self._bars.task_ids[0], completed=progress.rows)

    def close(self) -> None:
        """End the step that is shown, if one is."""
        self._told = 0
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
