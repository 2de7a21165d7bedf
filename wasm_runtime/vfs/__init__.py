"""The guest's file system. All of it is in memory, except mounted files of the host."""
