from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import do


@pytest.mark.parametrize("variable", ["IMAGEPIPELINE_API_KEY", "IMAGEPIPELINE_TABLES_URL"])
def test_the_demo_never_touches_what_is_real(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """With a key or tables of one's own in the environment, the demo refuses and says why."""
    monkeypatch.setenv(variable, "anything")
    result = do("demo")
    assert result.exit_code == 1
    assert f"unset {variable}" in result.output
    assert list(Path.cwd().iterdir()) == []
