"""One module a version, ``vNNNN_<what>.py``, in one line. What has landed never changes."""
