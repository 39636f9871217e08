"""What rows are made of: tables and their columns, and what tasks do alike when they read, check and label them."""
