"""Dataset releases: immutable, versioned folders of kept images with their lineage.

- `shards`: images and lineage as Parquet files that Hugging Face `datasets` reads as they are.
- `card`: what a release says of itself, to programs (`manifest.json`) and people (`README.md`).
- `publish`: a new version where the content changed, whole or not at all.
"""
