"""Host functions of the guest, one file a provider. Each import name is claimed by exactly one file."""
