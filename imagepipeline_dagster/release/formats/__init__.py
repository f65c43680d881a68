"""The formats of a release, each a writer that gets the same rows and pictures.

- `contract`: what each of them does. `files`: where their files go.
- `parquet`, `webdataset`, `imagefolder`, `lance`: one each.
- `source_files`: the pictures that requests start from, in an image folder.
"""
