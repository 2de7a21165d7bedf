"""Host functions of the guest, in one file per provider. Exactly one file implements each import."""
