"""Packages of the sandbox: resolving and downloading wheels, the images that hold them, and what a model is told."""
