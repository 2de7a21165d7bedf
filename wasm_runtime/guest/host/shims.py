"""Things that programs expect and this guest has in its own way."""

import sys


def install():
    """Make what cannot work here fail with a sentence instead of in a strange place."""
    # libffi's calls go through JavaScript, which is not there.
    sys.modules["_ctypes"] = None
