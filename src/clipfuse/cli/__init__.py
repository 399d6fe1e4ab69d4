"""The command line. Nothing here imports torch, Lightning or Hydra before a command needs them."""
