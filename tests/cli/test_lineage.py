from __future__ import annotations

import io
import json

import pytest

from imagepipeline_dagster.cli import main
from tests.buying import API_KEY
from tests.cli.shop import Shop


def test_texts_of_tables_cannot_steer_the_terminal(shop: Shop) -> None:
    """Escapes and markup in names and prompts are shown as text."""
    name = "[bold red]x[/]\x1b[31m"
    shop.add("a\x1b]0;pwned\x07", prompt_set=name, prompt="[link=x]boat[/link] \u202e\x1b[2J")
    plan = shop.run("plan")
    assert "[bold" in plan
    assert "\\x1b" in plan.replace("\n", "")
    bought = shop.buy(name)
    shown = shop.run("lineage", str(bought.images[0].image_sha256))
    as_json = shop.run("lineage", str(bought.images[0].image_sha256), "--json")
    unknown_set = shop.run("plan", "missing\x1b[31m", ok=False)
    for output in (plan, shown, as_json, unknown_set):
        assert "\x1b" not in output
        assert "\u202e" not in output
        assert "\x07" not in output
    assert "[link=x]boat[/link]" in shown


def test_lineage_shows_the_chain(shop: Shop) -> None:
    """The chain is readable, and whole as JSON, from a file as from a hash."""
    shop.add("a", seed=7)
    image = shop.buy().images[0]
    assert image.uri is not None
    shown = shop.run("lineage", image.uri)
    for expected in ("'spring' / 'a', call 0 of images", image.job_id, "seed", "run"):
        assert str(expected) in shown
    for name, value in json.loads(str(image.request)).items():
        assert f"  {name}: {json.dumps(value)}\n" in shown
    assert '  prompt_set: "spring"\n' in shown
    assert "null: embeddings, " in shown
    told = json.loads(shop.run("lineage", str(image.image_sha256)[:8], "--json"))
    assert told["image_sha256"] == image.image_sha256
    (sample,) = told["samples"]
    assert sample["seed"] == 7
    assert sample["request"] == json.loads(str(image.request))
    assert sample["uses"][0]["prompt_row"]["prompt"] == "a boat called a"
    assert "knows no image" in shop.run("lineage", "0" * 64, ok=False)


class Terminal(io.TextIOWrapper):
    """A standard output that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_lineage_fits_a_terminal(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal long texts are folded and ids lose their middle; JSON keeps all of them."""
    prompt = " ".join(["a boat on a calm sea"] * 8)
    shop.add("a", prompt=prompt)
    image = shop.buy().images[0]

    def shown(*options: str) -> str:
        written = io.BytesIO()
        terminal = Terminal(written, encoding="utf-8", write_through=True)
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdout", terminal)
            main(["lineage", str(image.image_sha256), *options], standalone_mode=False)
        return written.getvalue().decode()

    lines = shown().splitlines()
    # A path and a digest stay whole, to be copied.
    assert all(len(line) <= 80 or len(line.split()[-1]) >= 60 for line in lines)
    job = next(line.split()[-1] for line in lines if line.strip().startswith("job"))
    first, last = job.split("…")
    assert str(image.job_id).startswith(first)
    assert str(image.job_id).endswith(last)
    assert prompt.split() == shown().split(' prompt: "')[1].split('"')[0].split()
    (sample,) = json.loads(shown("--json"))["samples"]
    assert sample["job_id"] == image.job_id


def test_replay_asks_before_it_pays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key a replay says what it costs; another API is asked only with --elsewhere."""
    shop.add("a")
    sha256 = str(shop.buy().images[0].image_sha256)
    monkeypatch.setenv("IMAGEPIPELINE_API_KEY", API_KEY)
    monkeypatch.setenv("IMAGEPIPELINE_BASE_URL", shop.emulator.url)
    said = [
        shop.run("replay", sha256, ok=False),
        shop.run("replay", sha256, "--elsewhere", ok=False, answer="n\n"),
    ]
    assert "was made by the emulator" in said[0]
    assert "This buys 1 image." in said[1]
    assert shop.emulator.stats.posts_accepted == 1
    said.append(shop.run("replay", sha256, "--elsewhere", answer="y\n"))
    assert "No drift" in said[2]
    assert shop.emulator.stats.posts_accepted == 2
    assert not any(API_KEY in output for output in said)
