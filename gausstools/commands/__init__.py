"""What ``python -m gausstools`` can do, one module for each command; they are not for import."""

__all__ = []
