"""What happens to texts between source and tokenizer: edits that keep offsets true, cleaning, augmentation."""
