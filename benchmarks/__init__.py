"""`make bench`: a purchase beside what people write by hand and the ideal; the sensors' looks.

- `vendor`: the emulator in a process of its own, and the least time that it needs for some jobs.
- `peers`: the loops that people write around the API.
- `stage`: ours, the whole stage with ledger, decoding and storing, measured from outside.
- `purchase`: runs them one after another against one emulator; the table, and the JSON file.
- `promises`: figures that were measured, beside what is promised of them.

- `releases`: a release, the next one, further formats and a diff, beside a plain copy.
- `released_sets`: a release of many small prompt sets.

- `catalogue`: prompts tables of any size, made inside their database.
- `watching`: the sensors' looks at them, and what pandas takes.
- `daemon`: the real daemon's quiet ticks (`watched_definitions`), and those of an empty sensor.
- `tables`: runs them on SQLite and on PostgreSQL; the tables, and the JSON file.
"""
