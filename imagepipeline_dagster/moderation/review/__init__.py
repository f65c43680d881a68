"""The places where a person reviews pictures: a file, or a page that records each decision.

- `samples`: what both show of a set, and the sets that wait for a person.
- `sheet`: one HTML file with the commands to decide by. `sheet.html.jinja`, `sheet.css`: its looks.
- `session`: what one person decides about the pictures of some sets, and takes back.
- `app`: the page over HTTP, for this computer alone. `page.html.jinja`, `page.js`, `page.css`: the
  page itself. `base.css`: what both have in common.
"""
