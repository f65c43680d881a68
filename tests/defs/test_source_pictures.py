"""A dataset that keeps the pictures its requests start from, through all its stages."""

from __future__ import annotations

import hashlib
from pathlib import Path

from imagepipeline_dagster import ImageDataset, ReleasePolicy, latest_release
from tests.api.servers import Received, Reply, answering
from tests.pipeline import metadata_of, open_pipeline
from tests.release.samples import picture


def test_the_option_keeps_them_and_says_what_could_not_be_kept(tmp_path: Path) -> None:
    """Rows name what is kept; the event of the purchase counts it, and tells why others are not."""

    def script(received: Received) -> Reply:
        is_ours = received.headers["accept-encoding"] == "identity"
        dead = is_ours and received.path.startswith("/dead.png")
        return Reply(status=410) if dead else Reply(body=picture(1))

    policy = ReleasePolicy(formats=("imagefolder",))
    dataset = ImageDataset(keep_source_pictures=True, release=policy)
    with (
        answering(script) as server,
        open_pipeline(tmp_path, dataset=dataset) as pipeline,
    ):
        for name in ("live", "dead"):
            pipeline.add("s", name, task="image2image", init_image=f"{server.url}/{name}.png?sig=x")
        pipeline.add("s", "words")
        run = pipeline.sync()["s"]
        frame = pipeline.table("moderated_images", "s").set_index("prompt_id")
        pipeline.release()
        released = latest_release(pipeline.resources["storage"].open()).manifest

    kept = hashlib.sha256(picture(1)).hexdigest()
    assert frame["init_image_sha256"].to_dict() == {"live": kept, "dead": None, "words": None}
    assert set(frame["outcome"]) == {"generated"}
    assert [f.path for f in released.files if kept in f.path] == [
        f"imagefolder/train/{kept[:2]}/{kept}-source.png"
    ]
    metadata = metadata_of(run, "generated_images")
    assert metadata["source_pictures"].value == 1
    why = str(metadata["source_pictures_not_kept"].value)
    assert "answered HTTP 410" in why
    assert "sig" not in why
