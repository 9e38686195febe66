"""The command line.  It imports the server, and so the SDK, for `serve` and `demo` alone."""
