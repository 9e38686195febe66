"""Results as structured answers and as text."""
