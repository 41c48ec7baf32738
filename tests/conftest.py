"""What every test of the project may use."""

import pytest

from testbed import Certificates


@pytest.fixture(scope="session")
def certificates():
    with Certificates() as certificates:
        yield certificates
