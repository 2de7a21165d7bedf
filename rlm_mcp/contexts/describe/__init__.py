"""Descriptions of contexts, made without a model: structure, tables, log formats, outlines."""
