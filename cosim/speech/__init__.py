"""Speech in, text and word error counts out."""
