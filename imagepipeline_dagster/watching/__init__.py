"""Which prompt sets changed, and which of them want a run.

- `options`: how a dataset has its tables watched.
- `looking`: how closely a tick looks at the tables.
- `contents`: what each set's rows say, as far as the ticks have looked.
- `states`: what each set was last requested and built from, and which want a run.
- `partitions`: which sets come and go.
- `ticks`: what one tick does with all of these.
"""
