"""Readers of texts, tagged sentences, labelled sequences and series; vocabularies; and the built-in data."""
