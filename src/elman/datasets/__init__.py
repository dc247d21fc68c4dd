"""Data: text from files, a text that needs no file, and vocabularies."""
