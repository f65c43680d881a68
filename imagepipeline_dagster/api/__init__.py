"""The HTTP contract of ImagePipeline's SDXL API and an asynchronous client of it.

- `contract`: the requests that the API takes, and the paths that they go to
- `jobs`: a job, and how an answer about one is read
- `errors`: what can go wrong, as a tree of classes
- `address`: the base URL, checked and in one spelling
- `answers`, `rulings`, `words`: an answer read, what it proves, and what its words speak of
- `client`: submit, status, wait, download; made of `connections`, `pacing`, `retrying` (what may
  be asked again), `redaction` (the key out of every text), and `downloads` with the `links` that
  it may follow

Nothing in here knows of tables, ledgers or Dagster. Of ours it imports two modules: the root of the
errors, and the counters of `telemetry`.
"""
