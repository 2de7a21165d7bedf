"""Writes this server into the configurations of MCP clients, and takes it out again.

`known` says what each client wants and `places` where it looks for it; `jsontext`, `tomltext` and `yamltext` change one
entry of a text; `editing` proves that nothing else changed. All of that is without I/O. `configfile` reads and writes,
`installing` does one after the other.
"""
