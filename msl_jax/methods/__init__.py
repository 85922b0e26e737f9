"""What is trained: terms, losses, guides and the table of methods."""
