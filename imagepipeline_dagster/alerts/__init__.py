"""Alerts: something that a person should know, told once until it changes.

- `alert`: the message, and the hook that it is given to.
- `standing`: what the ledger says: budget, unknown requests, approvals waiting.
- `runs`: what became of a run: that it failed, or that checks in it did.
- `telling`: which alerts were told already.
- `slack`: a hook.
"""
