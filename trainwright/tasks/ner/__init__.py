"""Named entities: spans of a text, each with a label, found by labelling its words."""
