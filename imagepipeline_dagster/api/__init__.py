"""The HTTP contract of ImagePipeline's SDXL API and an asynchronous client of it.

- `contract`: what may be asked, and how answers read
- `errors`: what can go wrong, drawn as a tree
- `address`: the base URL, checked and in one spelling
- `answers`, `rulings`, `words`: an answer read, what it proves, and what its words speak of
- `client`: submit, status, wait, download; made of `connections`, `retrying` (what may be asked
  again), `redaction` (the key out of every text), and `downloads` with the `links` that it may
  follow

Nothing in here knows of tables, ledgers or Dagster; of ours it imports the root of the errors.
"""
