"""Alerts about runs that ended: failed ones, and those in which checks failed."""

from __future__ import annotations

from collections.abc import Sequence

from imagepipeline_dagster.alerts.alert import Alert, News

_LONGEST = 500  # characters of an error
_NAMED = 10


def news_of_run(
    *,
    run_id: str,
    job: str,
    what: str,
    error: str | None,
    failed_checks: Sequence[str],
    link: str | None,
) -> News:
    """Return what a person should know of a run; the next run of the same settles it.

    `what` is the prompt set, or what else the run was about. `error` is None where it did not fail.
    Each of the checks that failed is told with its asset. `link` is its page in Dagster's UI.
    """
    about = f"{job} {what}"
    if error is None and not failed_checks:
        return about
    lines = [] if error is None else [error[:_LONGEST]]
    lines += failed_checks[:_NAMED]
    if len(failed_checks) > _NAMED:
        lines.append(f"and {len(failed_checks) - _NAMED:,} checks more")
    checks_failed = f"{job}: {len(failed_checks):,} checks failed for {what}"
    return Alert(
        title=checks_failed if error is None else f"{job}: a run of {what} failed",
        text="\n".join(lines),
        facts={"job": job, "about": what, "run": run_id},
        link=link,
        about=about,
        state="\n".join([str(error), *sorted(failed_checks)]),
    )
