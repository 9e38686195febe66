"""A session's view of the claims, and its operations on them."""
