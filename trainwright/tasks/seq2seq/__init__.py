"""Text to text: a target for a source, or the dropped spans of a text (T5's span corruption)."""
