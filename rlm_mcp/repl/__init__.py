"""The asynchronous side of a sandbox session, and what guest code may ask the host for."""
