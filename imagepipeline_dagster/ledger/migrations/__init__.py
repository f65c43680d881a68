"""How an older ledger becomes a current one: a revision of alembic's for each step of its schema.

A revision's number is the schema version that it leads to; `opening` carries them out.

- `version_2`: which attempt bought a sample, what a file carries beside its picture, and whether it
  is seen through; a set's images and verdicts in one row, and a picture's evidence in one table.
"""
