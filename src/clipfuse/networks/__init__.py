"""Networks in files: loading, checking and exporting them."""
