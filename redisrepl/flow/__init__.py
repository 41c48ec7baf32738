"""What moves: pushing, applying, comparing both sides, judging their histories, saving."""
