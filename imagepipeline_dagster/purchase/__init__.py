"""The plan carried out: from requests to stored bytes.

- `purchase`: the rounds; its tasks share a `state`, and `pacing` says when to send and to ask.
- `submission`: a call into a job: claimed, POSTed, recorded with its `uses`.
- `landing`: a finished job's links into stored bytes; `pictures` verifies them,
  and `beside` looks at what stands beside the pixels.
- `images`: a row of the result. `checks`: what a purchase of a set should come to.
- `replay`: an image's request bought again; `likeness` says how the pictures compare.
"""
