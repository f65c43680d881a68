"""`make bench`: how fast a purchase is, beside what people write by hand and beside the ideal.

- `vendor`: the emulator in a process of its own, and the least time that it needs for some jobs.
- `peers`: the loops that people write around the API.
- `stage`: ours, the whole stage with ledger, decoding and storing, measured from outside.
- `purchase`: runs them one after another against one emulator; the table, and the JSON file.
"""
