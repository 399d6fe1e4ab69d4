"""Does a fused image help a machine to see? Tasks, protocols and scores on labelled images."""
