"""What a model has learned, what it has lost, shown in numbers with their pictures."""
