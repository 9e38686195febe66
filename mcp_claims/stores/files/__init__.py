"""Claims as files, under a kernel lock."""
