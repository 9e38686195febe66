"""What the product costs, each measurement beside its floor: what the same thing costs without it.

    python -m benchmarks [NAME...] [--quick] [--json] [--write]

Both sides of a comparison run in turns (A B A B …), so that what else the machine does hits both alike.  Absolute times
are those of one machine at one time; the ratios are what can be compared.
"""
