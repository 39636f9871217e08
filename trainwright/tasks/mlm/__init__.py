"""Masked language modelling: words of a text are hidden, and the model fills them in, as BERT was trained."""
