"""How fast the library is, beside the matrix products that it cannot do without: ``make bench``."""
