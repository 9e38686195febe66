"""The guard: what the hooks of hosts and of git do, so that sessions which call no tool keep off each other's files."""

NOT_SEEN = (
    "The guard does not see what programs and scripts write by themselves (`make`, `python x.py`, formatters, editors, build "
    "tools, `find -delete`), what a variable or the output of a command names, what `xargs`, or `patch` without a file, reads "
    "from standard input, and what `git checkout BRANCH`, `git switch`, `git reset`, `git clean`, `git stash`, `git apply`, `git merge` "
    "or `git pull` change."
)
"""What of a shell command the guard cannot know, for its help."""
