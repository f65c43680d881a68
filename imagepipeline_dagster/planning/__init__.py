"""From a prompt row to the calls that it needs; free of charge.

- `prompts`: rows validated, with their defaults; `tokens` counts what the model reads of them.
- `seeds`: the seed of a call.
- `requests`: prompts into requests, with keys, reasons and states: the plan.
- `shards`: a large set in parts.
- `forecast`: what a purchase of several prompt sets would buy.
- `approval`: which purchases wait for a person, and plans approved.
"""
