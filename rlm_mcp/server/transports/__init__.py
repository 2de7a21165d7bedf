"""The transports of the server: stdio, or streamable HTTP with tenants, tokens and rate limits."""
