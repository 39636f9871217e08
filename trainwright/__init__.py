"""Trainwright: fine-tuning transformer models from versioned data, with a gate at every hand-over."""
