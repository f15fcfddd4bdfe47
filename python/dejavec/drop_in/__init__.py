"""dejavec's cache in the place of mteb's, without a change to the script."""
