"""Adds this server to the configurations of MCP clients, and removes it again.

`clients` describes each client and `user_folders` the folders of its files. `edit_json`, `edit_toml` and `edit_yaml`
change one entry of a text, and `entry` checks that nothing else changed; none of these does I/O. `config_file` reads
and writes files, `plan` works out a change before it is made, and `state` reports which clients have an entry.
"""
