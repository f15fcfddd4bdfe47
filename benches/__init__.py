"""dejavec and what people would use instead, measured side by side: ``make bench``."""
