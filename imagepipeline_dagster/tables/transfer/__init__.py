"""Rows of a file on their way into a table, and of a table into a file.

- In: `reading_files` → `incoming` → `staging` → `merge`, which says what would change (`changes`)
  and then writes to the `target`.
- Out: `export` → `writing_files`.
- `progress`: how far either is.
"""
