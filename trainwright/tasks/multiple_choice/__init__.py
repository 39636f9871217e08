"""Multiple choice: of a question's choices one is right; their number may differ between questions."""
