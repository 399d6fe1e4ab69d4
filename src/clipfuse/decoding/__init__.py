"""Image files to arrays by their own tags, and the range of values that is black to white."""
