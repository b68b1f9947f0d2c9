"""What has been built: the layout on disk, immutable objects, the records that say what made them, one lock each."""
