"""What every server is tried with, as tests of pytest: `make matrix` runs them, and so can anyone by hand.

In: programs that the environment names (`testbed.programs`), else those of the machine. Out: a result of each case.
Left to others: the choice of programs (`matrix.programs`), the table (`matrix.report`).
"""
