"""Pure tensor functions: colour, filters, padding, checks."""
