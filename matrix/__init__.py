"""Every server that users have, tried by the same cases: `make matrix`.

In: a table of programs (`programs`). Out: what each case did with each, in docs/compatibility.md, and the logs of what
failed. Left to others: the cases (tests/matrix, and tests of the suite that depend on a server), servers (`testbed`).
"""
