"""The plan carried out: from requests to stored bytes.

- `means`: what a run buys with. `purchase`: puts its purchase together. `rounds`: its work; its
  tasks share a `state`, and `pacing` says when to ask, `places` how many jobs may be
  in flight.
- `submission`: a call into a job: claimed, POSTed, recorded. `fence`: which claims
  are certain at that moment. `endings`: what an error makes of a call, and of the run.
- `counting`: what was bought, counted in the ledger and on the storage.
- `landing`: a finished job's links into stored bytes; `pictures` verifies them,
  and `beside` looks at what stands beside the pixels, in the `pieces` of their files;
  `thumbnails` draws a lost one.
- `sources`: the pictures that requests start from, kept beside the purchase.
- `images`: a row of the result. `checks`: what a purchase of a set should come to.
- `replay`: an image's request bought again; `likeness` says how the pictures compare.
- `canaries`: pinned images that are bought again on a schedule, to see the model drift.
- `rebuild`: a lost ledger restored from what the storage keeps.
- `refetching`: paid pictures asked for again, at no cost.
"""
