"""From a model and a call to the directory that serves it, and the chunks in which the model encodes."""
