"""Rows of a file on their way into a table, and of a table into a file.

- A file: its bytes (`unpacking`), lines (`text_lines`) and rows (`file_rows`). `delimited_files`,
  `json_files` and `binary_files` read them; `reading_files` recognises which it is.
- In: `header_names` says which column a header means, `tidying` what a cell means by itself;
  `incoming` → `staging` → `merge`, which says what would change (`changes`) and then writes to the
  `target`. `refusals` are rows that a person has to mend.
- Out: `export` → `writing_files`.
- `progress`: how far either is.
"""
