"""The prompts and embeddings tables: read, imported, fingerprinted and named.

What others use:

- `schema`: the columns of both tables, how a user's tables map to them, and a row as it was read.
- `reading`: rows out of the user's tables; nothing is ever written.
- `summaries`: the newest time, and of each set its rows and their newest time; reads no content.
- `checksums`: whether a set's rows are as they were, without reading what they say.
- `fingerprints`: the content of a prompt set as one short text, whatever the order of its rows.
- `names`: prompt-set names as partition keys and as path parts.
- `importing`: the tables created, and the rows of a file brought into them, all or none.
- `exporting`: the rows of a table in a file that can be imported again.
- `merging`: an import in two steps: what would change, then the change.
- `samples`: tables with `sample_rows` that show every outcome, and edits of them to watch.

What these are made of:

- `spelling`: what a person may have meant who wrote a name that is not there.
- `values`: what people put into columns, read as the column's type where that is unambiguous.
- `database`: databases by URL, the tables as they have them, and the errors about both.
- `files` → `incoming` (`checking`, `seen`) → `staged` → `merging` (`changes`) → `target`: a file's
  rows, on their way into a table; `outgoing`: a table's rows, on their way into a file.
"""
