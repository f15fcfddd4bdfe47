"""One directory of vectors by key, and the identity that is stored beside them."""
