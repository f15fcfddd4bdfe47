"""dejavec's cache instead of mteb's, without a change to the script."""
