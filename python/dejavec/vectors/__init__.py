"""Arrays as models return them, and the rows that are stored."""
