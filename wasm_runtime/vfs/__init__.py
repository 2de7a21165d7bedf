"""The file system that the guest sees, all of it in memory except mounted files."""
