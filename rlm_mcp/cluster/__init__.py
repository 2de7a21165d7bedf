"""Storage that several machines share, in the place of SQLite and files: Postgres, and an object store (S3).

    opening     opens a cluster where the settings name one; the rest of the package is imported only then
    backends    the storage that a process opens, and the part of each owner
    addresses   those of database and bucket
    database    connections to Postgres, and its clock
    description what `rlm-mcp doctor` tells
    schema      the tables, their version, and migrations
    objects     the bucket
    notices     what processes tell each other
    sweeper     deletes what nothing needs any more
    worker      plays runs that others hand over

Each other file implements one protocol that `workspace/backends.py` names. The extra `cluster` installs the packages
that this one imports.
"""
