"""Data, from files to batches: readers, builder, weak labels, resampling, patches."""
