"""Fusion networks: `conf/backbone/x.yaml` names the class in `backbones/x.py`."""
