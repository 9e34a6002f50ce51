"""Training programs and what starts them."""
