"""The history of claims: JSON lines beside the claims, a file a day and namespace.

| module | what it does |
|---|---|
| `files` | which files there are, for which day and namespace |
| `reader` | reads events of a time, and those that come later |
| `log` | appends lines; imported with the first one |
"""
