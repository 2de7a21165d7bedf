"""Language models: the protocol that the engine calls, its implementations, and what they share."""
