"""`imagepipeline-dagster emulator`: the API's contract, served on loopback."""

from __future__ import annotations

import click

from imagepipeline_dagster.cli.terminal import plain_errors
from imagepipeline_dagster.emulator import faults as fault_rules
from imagepipeline_dagster.emulator import server
from imagepipeline_dagster.emulator import settings as emulator_settings


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8188,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes any.",
)
@click.option("--api-key", default="emulator", show_default=True, help="The key that it accepts.")
@click.option(
    "--latency",
    type=click.FloatRange(min=0),
    default=0.4,
    show_default=True,
    help="Mean seconds of a job.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Jobs that run at once.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND[:FIELD=VALUE,...]",
    help="What goes wrong, such as rate_limited:times=3 or html_page:seconds=60; may be repeated.",
)
def emulator(
    *, port: int, api_key: str, latency: float, concurrency: int, faults: tuple[str, ...]
) -> None:
    """Serve the API's contract on loopback, until interrupted.

    --fault switches on what goes wrong. An unknown KIND tells all of them, and an unknown FIELD is
    refused: times, seconds, probability, prompt_contains, operation and after_accepting say when,
    status, message, word and more say how.
    """
    if not api_key:
        raise click.BadParameter("an API key is never empty", param_hint="--api-key")

    try:
        parsed = tuple(map(fault_rules.Fault.parse, faults))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from error

    def say_where(url: str) -> None:
        click.echo(f"Serving the API at {url}. Point a pipeline at it:")
        click.echo(f"  IMAGEPIPELINE_BASE_URL={url} IMAGEPIPELINE_API_KEY={api_key}")

    with plain_errors():
        settings = emulator_settings.EmulatorSettings(
            api_key=api_key, latency_seconds=latency, concurrency=concurrency, faults=parsed
        )
        server.serve(settings, port=port, on_ready=say_where)
