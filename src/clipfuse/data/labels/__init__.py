"""Labels of a data set: maps of classes, boxes and captions."""
