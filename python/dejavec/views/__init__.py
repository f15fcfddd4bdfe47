"""The vectors of a corpus in the forms of other libraries."""
