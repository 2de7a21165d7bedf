"""Storage that several machines share, in the place of SQLite and files: Postgres, and an object store (S3).

    database    connections to Postgres, and its clock
    schema      the tables, their version, and migrations
    objects     the bucket
    text_cache  files of this machine with texts of the bucket

Each other file implements one protocol that `workspace/backends.py` names. The extra `cluster` installs the packages
that this one imports; nothing imports it unless RLM_MCP_STORE is set.
"""
