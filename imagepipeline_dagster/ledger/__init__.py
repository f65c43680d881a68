"""What was claimed, bought and stored, by request key; nothing is bought without it.

- `schema`: the tables. `opening`: a ledger opened, and brought up to date by the `migrations`.
- `records`: what the ledger keeps of a request, and what that means for a plan.
- `requests`: a ledger opened, and its entries read. `steps`: each step of a request recorded.
- `writer`: steps committed together, off the event loop. `upserts`: rows that may be there already.
- `uses`: which prompts use which requests, with their rows as they were.
- `sources`: the pictures that requests start from, by their links.
- `identity`: whether a ledger is the one that its storage knows.
- `bought`: whether anything was bought, and how much of what; the emulator must not replace it.
- `budget`: what may be spent, reserved before each request.
- `shares`: what an API account allows, divided among the processes that buy at it.
- `approvals`: plans that people approved.
- `decisions`: what a person decides about requests that no run goes on with.
- `lineage`: from an image back to all that it comes from.
- `verification`: the storage read again against the ledger.
"""
