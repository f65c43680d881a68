"""The prompts and embeddings tables: read, created, fingerprinted.

What others use:

- `schema`: the columns of both tables, how a user's tables map to them, and a row as it was read.
- `reading`: rows out of the user's tables; nothing is ever written.
- `summaries`: the newest time, and of each set its rows and their newest time; reads no content.
- `misleading_times`: the time of a row that hides newer rows.
- `prompt_syntax`: what of a prompt other tools do not take as words.
- `checksums`: whether a set's rows are as they were, without reading what they say.
- `fingerprints`: the content of a prompt set as one short text, whatever the order of its rows.
- `overrides`: the table of people's decisions, read and added to.
- `creating`: the tables created.
- `samples`: tables with rows that show every outcome, and edits of them to watch.
- `transfer`: files in and out of the tables.

What these are made of:

- `spelling`: what a person may have meant who wrote a name that is not there.
- `values`: what people put into columns, read as the column's type where that is unambiguous.
- `database`: databases by URL. `mapped`: a mapped table as the database has it. `errors`: what a
  person has to put right about either.
"""
