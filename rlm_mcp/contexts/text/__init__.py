"""Reading text: encodings, lines, ranges, globs and regular expressions."""
