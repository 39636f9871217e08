"""Causal language modelling: the next token, in blocks of documents that do not see one another, or of one stream."""
