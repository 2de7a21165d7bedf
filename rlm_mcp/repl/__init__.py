"""REPLs: sandbox sessions with contexts in them, as async objects, and the host functions that their code may call."""
