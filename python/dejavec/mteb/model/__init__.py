"""What is known of an mteb model, built or not."""
