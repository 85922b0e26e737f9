"""Data, from files to batches: readers, builder, weak labels, transforms, pipeline."""
