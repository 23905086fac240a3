"""What the tests of the toolchain share."""

import resource
from contextlib import contextmanager

import pytest


@pytest.fixture
def limit():
    """``with limit(size)``: no file can be longer than ``size`` bytes."""
    @contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return limit
