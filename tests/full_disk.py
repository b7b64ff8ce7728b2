"""A disk that is full, as far as a process can make one for itself."""

import contextlib

import pytest


@contextlib.contextmanager
def full_disk(bytes_a_file=512):
    """Meanwhile no file of this process can grow beyond so many bytes: writing raises `OSError`."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
