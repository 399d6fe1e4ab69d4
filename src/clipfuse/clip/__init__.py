"""CLIP as a judge: frozen encoder, learnable prompts, similarities, and a small model that works offline."""
