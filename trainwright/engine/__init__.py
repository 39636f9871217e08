"""What turns features into a model and a model into outputs: batching, training, checkpoints, prediction."""
