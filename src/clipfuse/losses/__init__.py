"""Loss plugins: `conf/loss/x.yaml` names the class in `losses/x.py`."""
