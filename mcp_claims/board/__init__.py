"""The board: one page that shows who holds what, who waits, and what has happened, and goes on as it changes.

| module | what it does |
|---|---|
| `facts` | claims, tickets and events as the page gets them |
| `live` | the board of a store, kept up to date while a page is open |
| `site` | answers requests: the page, its stream of changes, the release by force; who may do what |
| `local` | serves it to one person on this machine |
| `page.html` | the page, with its script and style; nothing is fetched |
"""
