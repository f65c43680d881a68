"""Alerts about runs that ended: failed ones, and those in which checks failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imagepipeline_dagster.alerts.alert import Alert, Notify
from imagepipeline_dagster.alerts.telling import Telling, tell

__all__ = ["EndedRun", "tell_of_runs"]

_LONGEST = 500  # characters of an error
_NAMED = 10
_REMEMBERED = 30  # a cursor is stored with every tick


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """A run of a dataset that came to its end.

    Attributes:
        run_id: Dagster's.
        job: the job's name.
        what: the prompt set, or what else the run was about.
        error: why it failed; None where it did not.
        failed_checks: each check that failed in it, with its asset and what it says.
        link: its page in Dagster's UI.
    """

    run_id: str
    job: str
    what: str
    error: str | None
    failed_checks: tuple[str, ...]
    link: str | None

    @property
    def alert(self) -> Alert | None:
        """What a person should know of it; None where all is well."""
        if self.error is None and not self.failed_checks:
            return None
        failed = self.error is not None
        named = self.failed_checks[:_NAMED]
        more = len(self.failed_checks) - len(named)
        lines = [*filter(None, [self.error and self.error[:_LONGEST]]), *named]
        return Alert(
            title=f"{self.job}: a run of {self.what} failed"
            if failed
            else f"{self.job}: {len(self.failed_checks):,} checks failed for {self.what}",
            text="\n".join(lines + ([f"and {more:,} checks more"] if more else [])),
            facts={"job": self.job, "about": self.what, "run": self.run_id},
            link=self.link,
            about=f"{self.job} {self.what}",
            state="\n".join([str(self.error), *sorted(self.failed_checks)]),
        )


def tell_of_runs(
    runs: Iterable[EndedRun], said: Mapping[str, str], notify: Notify
) -> tuple[Telling, int]:
    """Tell of runs in the order of their ends; return how many were told of, or had nothing to.

    A run without trouble ends what was said of earlier ones: the next trouble is told again.
    """
    telling, done = Telling(said=said, told=0), 0
    for run in runs:
        alert = run.alert
        if alert is None:
            subject = Alert(title="", text="", about=f"{run.job} {run.what}", state="").subject
            kept = {name: state for name, state in telling.said.items() if name != subject}
            telling = Telling(said=kept, told=telling.told)
        else:
            told = tell([alert], telling.said, notify)
            telling = Telling(
                said=dict(list(told.said.items())[-_REMEMBERED:]),
                told=telling.told + told.told,
                error=told.error,
            )
            if told.error is not None:
                break
        done += 1
    return telling, done
