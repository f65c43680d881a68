"""Alerts: something that a person should know, told once until it changes.

- `alert`: the message, the hook that it is given to, and which ones were told already.
- `standing`: what the ledger says: budget, unknown requests, approvals waiting.
- `runs`: what became of a run: that it failed, or that checks in it did.
- `slack`: a hook.
"""
