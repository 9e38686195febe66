"""What a claim is, and the rules for it.  Pure: no clock, no file, no network."""
