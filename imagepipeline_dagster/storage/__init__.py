"""Objects in a local folder or an S3 bucket: one `contract`, two homes.

- `contract`: what a storage promises, its errors, and where pictures lie.
- `folder`: files below a folder. `bucket`: keys below a prefix.
- `opening`: a storage by its name.
"""
