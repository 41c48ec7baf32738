"""What every test of the project may use."""

import signal

import pytest

from testbed import Certificates

# A shell that runs the tests in its background has them ignore SIGINT, and whatever they start would ignore it as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def certificates():
    with Certificates() as certificates:
        yield certificates
