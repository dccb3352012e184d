"""Band splits of features, and measures of how much two sets of features share."""
