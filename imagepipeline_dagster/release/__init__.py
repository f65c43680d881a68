"""Dataset releases: immutable, versioned folders of kept images with their lineage.

- `columns`: what a row of a release says. `held_rows`: many rows, held encoded.
- `parts`: the rows cut into parts that stay the same.
- `pictures`: the pictures read and stamped, with their rows.
- `containers`: a picture's file without metadata that readers stumble over.
- `marks`: what a picture's file says of its origin. `stamping`: the file with that written into it.
- `credentials`: content credentials, signed for the user.
- `card`: what a release says of itself, to programs (`manifest.json`) and people (`README.md`).
- `croissant`: the same for tools that read Croissant.
- `readiness`: the sets that a release may take, judged by today's rules.
- `last_look`: what the newest release was last compared with.
- `fates`: what became of a picture: its verdicts, and the releases that hold it.
- `splits`: which split a sample is in. `packing`: the formats, written split by split.
- `formats`: a package with a writer for each.
- `policy`: how a dataset is released. `on_change`: when, if its sets changed.
- `changes`: why a sample differs between two releases. `comparing`: which do, of any number.
- `changes_sheet`: their pictures before and after.
- `content`: the rows of a version. `claims`: the number of a version, which one publisher takes.
- `publish`: a new version where the content changed, whole or not at all.
- `withdrawal`: pictures taken back, out of every release.
- `signing`: the signature of a manifest.
- `scratch`: the folder for unfinished files.
- `reading`, `verifying`: manifests and rows read back, and every byte of a release.
- `hub`: a release on the Hugging Face Hub.
- `dataset_release`: a release as its users have it.
"""
