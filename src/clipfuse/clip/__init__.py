"""CLIP for losses: frozen encoder, learnable prompts, similarities, and a small bundled model."""
