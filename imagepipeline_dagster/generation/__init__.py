"""From a prompt row to stored bytes, in the order of the files below.

- `prompts`: rows validated; `tokens` counts what the model reads of them
- `seeds`: the seed of a call
- `planning`: prompts into requests, with keys, reasons and states
- `ledger`: what was claimed, bought and stored; `ledger_records` says what of a request,
  `ledger_schema` has the tables, and `ledger_writer` commits off the event loop
- `pacing`: when to send, when to ask, when to slow down
- `purchase`: the plan carried out in rounds; its tasks share a `run_state`
- `submission`: a call into a job: claimed within the `budget`, POSTed, recorded with its `uses`
- `landing`: a finished job's links into stored bytes; `pictures` verifies them, and looks for what
  is smuggled in them (`smuggling`)
- `images`: a row of the result, and the `expectations` that a set's rows should meet
- `decisions`: what a person decides about requests that no run goes on with
- `lineage`: from an image back to all that it comes from; `replaying` buys its request again, and
  `likeness` says how the pictures compare
- `watching`: how closely a tick looks at the tables; `contents` keeps what they say, and
  `partitions` says which sets come and go
- `reconciling`: what each prompt set was last requested and built from, and which want a run
- `forecast`: what a purchase of several prompt sets would buy
"""
