"""Alerts about runs that ended: failed ones, and those in which checks failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imagepipeline_dagster.alerts.alert import Alert, Notify, subject_of
from imagepipeline_dagster.alerts.telling import Telling, tell

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
    def about(self) -> str:
        """What an alert of it is about: the next run of the same settles it."""
        return f"{self.job} {self.what}"

    @property
    def alert(self) -> Alert | None:
        """What a person should know of it; None where all is well."""
        if self.error is None and not self.failed_checks:
            return None
        if self.error is None:
            title = f"{self.job}: {len(self.failed_checks):,} checks failed for {self.what}"
        else:
            title = f"{self.job}: a run of {self.what} failed"
        lines = [] if self.error is None else [self.error[:_LONGEST]]
        lines += self.failed_checks[:_NAMED]
        if len(self.failed_checks) > _NAMED:
            lines.append(f"and {len(self.failed_checks) - _NAMED:,} checks more")
        return Alert(
            title=title,
            text="\n".join(lines),
            facts={"job": self.job, "about": self.what, "run": self.run_id},
            link=self.link,
            about=self.about,
            state="\n".join([str(self.error), *sorted(self.failed_checks)]),
        )


def tell_of_runs(
    runs: Iterable[EndedRun], said: Mapping[str, str], notify: Notify
) -> tuple[Telling, int]:
    """Tell of runs in the order of their ends; return how many were told of, or had nothing to.

    A run without trouble ends what was said of earlier ones: the next trouble is told again.
    """
    remembered, told, done = dict(said), 0, 0
    for run in runs:
        alert = run.alert
        if alert is None:
            remembered.pop(subject_of(run.about), None)
        else:
            telling = tell([alert], remembered, notify)
            told += telling.told
            remembered = dict(list(telling.said.items())[-_REMEMBERED:])
            if telling.error is not None:
                return Telling(said=remembered, told=told, error=telling.error), done
        done += 1
    return Telling(said=remembered, told=told), done
