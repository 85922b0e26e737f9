"""From a run to label maps, probabilities and exported networks."""
