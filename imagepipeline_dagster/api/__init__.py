"""The HTTP contract of ImagePipeline's SDXL API and an asynchronous client of it.

`contract` says what may be asked and how answers read, `errors` what can go wrong, `client` sends.
Nothing in here knows of tables, ledgers or Dagster.
"""
