"""Training and evaluation: the one loop every loss goes through."""
