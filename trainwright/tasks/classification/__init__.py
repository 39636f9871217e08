"""Classification: a text, or a pair of texts, to one label, to several labels, or to a number."""
