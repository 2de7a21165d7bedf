"""What a context is made of, found without a model: structure, tables, log formats, outlines."""
