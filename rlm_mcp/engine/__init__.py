"""The loop: how one question over contexts becomes an answer, its citations and its bill."""
